import pytest

from swa_tools.averaging import AverageOptions, average_checkpoints
from swa_tools.batchnorm import BnOptions
from swa_tools.checkpoints import find_checkpoints
from swa_tools.data import open_images
from swa_tools.distributed import single_process
from swa_tools.evaluation import EvaluationOptions
from swa_tools.selection import Setting, average_and_score, sweep

CPU = single_process("cpu")
BN = BnOptions(batch_size=8, workers=0)
EVALUATION = EvaluationOptions(batch_size=8, workers=0)


@pytest.fixture
def images(image_folder):
    return open_images(image_folder / "train"), open_images(image_folder / "val")


def run_sweep(paths, images, *, at_once=4):
    train, val = images
    evaluation = EvaluationOptions(batch_size=8, workers=0, at_once=at_once)
    return sweep(paths, val, Setting(train=train, bn=BN, evaluation=evaluation, context=CPU))


def test_every_average_is_scored_as_by_itself(run_with_captures, images, tmp_path):
    paths = find_checkpoints([run_with_captures])
    points = run_sweep(paths, images)
    assert [point.name for point in points] == [
        "first-001",
        "first-002",
        "first-003",
        "last-001",
        "last-002",
        "last-003",
    ]
    assert points[1].sources == tuple(paths[:2])
    assert points[4].sources == tuple(paths[1:])
    train, val = images
    for point in points:
        alone = average_and_score(
            point.sources,
            tmp_path / f"{point.name}.safetensors",
            average=AverageOptions(),
            setting=Setting(train=train, bn=BN, evaluation=EVALUATION, context=CPU),
            val=val,
        )
        expected = alone.scores.checkpoints[0].score
        assert point.bn == "updated"
        assert point.score.n_correct == expected.n_correct
        assert point.score.nll == pytest.approx(expected.nll, rel=1e-5)


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_scores_do_not_depend_on_how_many_are_in_memory(run_with_captures, images, at_once):
    paths = find_checkpoints([run_with_captures])
    expected = run_sweep(paths, images)
    found = run_sweep(paths, images, at_once=at_once)
    assert [point.name for point in found] == [point.name for point in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score.n_correct == other.score.n_correct
        assert one.score.nll == pytest.approx(other.score.nll, rel=1e-5)


def test_one_checkpoint_is_both_ends(run_with_captures, images):
    points = run_sweep(find_checkpoints([run_with_captures])[:1], images)
    assert [point.name for point in points] == ["first-001", "last-001"]
    assert points[0].score == points[1].score


def test_half_precision_files_are_swept_too(run_with_captures, images, tmp_path):
    halves = []
    for path in find_checkpoints([run_with_captures]):
        halves.append(tmp_path / path.name)
        average_checkpoints([path], halves[-1], options=AverageOptions(dtype="BF16"))
    points = run_sweep(halves, images)
    assert len(points) == 6
