import json

import numpy as np
import pytest

from swa_tools.batchnorm import BnOptions, Recomputation, conditions_of
from swa_tools.checkpoints import BnInfo, Preprocessing, read_metadata
from swa_tools.cli import run
from swa_tools.cli.whole_job import verdicts
from swa_tools.evaluation import CheckpointScores, Evaluation, Score, ScoredCheckpoint
from swa_tools.models import load_state_dict, save_state_dict
from swa_tools.records import Record, append_records
from swa_tools.run_directory import RunDirectory
from swa_tools.selection import ScoredAverage

N = 1000


@pytest.fixture
def scored(tmp_path):
    """Build the scores of an average, its stale twin and a minimum, of so many images each."""

    def build(*, average, stale=None, minimum=None, view="training"):
        right = {"swa": average, "stale-swa": stale, "cycle-002": minimum}
        right = {name: n for name, n in right.items() if n is not None}
        preprocessing = Preprocessing(
            image_size=8, resize=8, crop="center", interpolation="bilinear", mean=(0,), std=(1,)
        )
        scores = {
            name: Score(n_samples=N, n_correct=n, top1=100 * n / N, top5=None, nll=1.0, ece=1.0)
            for name, n in right.items()
        }
        evaluation = Evaluation(
            scores=scores,
            ensemble=None,
            agreements=(),
            indices=np.arange(N),
            targets=np.zeros(N, np.int64),
            predictions={name: (np.arange(N) >= n).astype(np.int64) for name, n in right.items()},
        )
        return ScoredAverage(
            average=None,
            recomputation=Recomputation(
                reports=(),
                bn=BnInfo(state="updated"),
                conditions=conditions_of(BnOptions(view=view), None, preprocessing),
                n_skipped=0,
            ),
            scores=CheckpointScores(
                checkpoints=(
                    ScoredCheckpoint(
                        path=tmp_path / "swa",
                        name="swa",
                        digest="",
                        metadata=None,
                        bn="updated",
                        score=scores["swa"],
                        real=None,
                    ),
                ),
                evaluation=evaluation,
                images=None,
                n_skipped=0,
                members=(),
                ensemble_name="ensemble",
                notices=(),
            ),
            stale="stale-swa" if stale is not None else None,
            reference="cycle-002" if minimum is not None else None,
        )

    return build


def lines_of(scored, minima=(), run=None, paths=()):
    return list(verdicts(scored, paths, minima, run=run))


def test_an_average_that_is_as_it_should_be_needs_no_words(scored):
    assert lines_of(scored(average=640, stale=600, minimum=620)) == []
    # Worse, but by no more than chance.
    assert lines_of(scored(average=640, stale=643, minimum=644)) == []


@pytest.mark.parametrize(
    ("view", "other"), [("training", "evaluation"), ("evaluation", "training")]
)
def test_a_recompute_that_costs_names_the_other_view(scored, view, other):
    (line,) = lines_of(scored(average=600, stale=640, minimum=580, view=view))
    assert "the recompute of BatchNorm costs 4.00 points" in line
    assert f"--view {other}" in line
    assert "examples/bn_ablation.py" in line


def test_an_average_below_a_minimum_is_said_to_be(scored):
    (line,) = lines_of(scored(average=600, stale=590, minimum=640))
    assert line.startswith("the average is 4.00 points of top-1 below cycle-002 (p < 0.001)")


def test_a_run_that_still_descends_is_told_to_train_on(scored, run_with_captures):
    def minima(*tops):
        return [Record(event="evaluation", top1=top, n_samples=N) for top in tops]

    exploring = sorted((run_with_captures / "checkpoints").iterdir())
    first = load_state_dict(exploring[0])
    straight = [run_with_captures / f"straight-{number}.safetensors" for number in range(4)]
    for number, path in enumerate(straight):
        moved = {
            name: tensor + 0.01 * number if tensor.is_floating_point() else tensor
            for name, tensor in first.items()
        }
        save_state_dict(path, moved, read_metadata(exploring[0]))
    good, run = scored(average=640, stale=600), RunDirectory(run_with_captures)
    (line,) = lines_of(good, minima(54, 58, 60, 61), run=run, paths=straight)
    assert "still descending: its captures rise from 54.00 to 61.00 %" in line
    assert f"swa-tools sweep {run_with_captures} --data DIR" in line
    # Both must say so: the scores, by more than chance, and the path.
    assert lines_of(good, minima(60, 61, 60.5, 61), run=run, paths=straight) == []
    assert lines_of(good, minima(54, 58, 60, 61), run=run, paths=exploring) == []


def test_the_stale_average_and_the_best_minimum_are_scored_beside(
    run_with_captures, image_folder, tmp_path, capsys
):
    checkpoints = sorted((run_with_captures / "checkpoints").iterdir())
    append_records(
        run_with_captures / "metrics.jsonl",
        [
            Record(
                event="evaluation",
                checkpoint=path.name,
                kind="checkpoint",
                top1=top1,
                nll=1.0,
                n_samples=12,
            )
            for path, top1 in zip(checkpoints, (30.0, 50.0, 40.0), strict=True)
        ],
    )
    arguments = ["average", run_with_captures, "--data", image_folder, "--workers", 0]
    arguments += ["--device", "cpu", "-o"]
    assert run([*map(str, arguments), str(tmp_path / "a.safetensors")]) == 0
    table = capsys.readouterr().out
    assert "a.safetensors (stale)" in table
    assert run([*map(str, arguments), str(tmp_path / "b.safetensors"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["reference"]["name"] == "cycle-002.safetensors"
    assert document["stale"]["n_samples"] == document["n_samples"] == 12
    assert 0 <= document["stale"]["p_value"] <= 1
    # Only the average itself is recorded.
    results = (run_with_captures / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["checkpoint"] for line in results] == [
        "a.safetensors",
        "b.safetensors",
    ]


def test_scores_at_another_size_than_the_recorded_one(run_with_captures, image_folder, tmp_path):
    arguments = ["average", run_with_captures, "--data", image_folder, "--workers", 0]
    arguments += ["--device", "cpu", "--image-size", 48, "-o", tmp_path / "a.safetensors"]
    assert run([*map(str, arguments)]) == 0
