import dataclasses
import json
import subprocess
import sys
import textwrap

import click
import pytest

from swa_tools.batchnorm import BnOptions
from swa_tools.cli.declared import options_of, sections_of, taken
from swa_tools.evaluation import EvaluationOptions
from swa_tools.options import COUNT, declared, option, values_of
from swa_tools.training.options import FinetuneOptions, JobOptions, compared, recorded

NEW_OPTIONS = textwrap.dedent("""
    import dataclasses, json, sys
    from pathlib import Path
    from swa_tools.options import option
    from swa_tools.training import options

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class More(options.FinetuneOptions):
        mixup: float = option(
            0.0, help="Mix pairs of images.", section="Optimizer", affects="numbers"
        )
        fast_math: bool = option(False, help="Round less.", section="Speed", affects="bits")
        loud: bool = option(False, help="Ring a bell.", affects="nothing")

    options.FinetuneOptions = More  # before anything takes it from there

    from swa_tools.cli import run
    from swa_tools.report.groups import replicates
    from swa_tools.report.runs import load_runs

    folder = Path(sys.argv[1])
    small = ("finetune", "timm/test_efficientnet", "--no-pretrained", "--synthetic-data", "8",
             "--image-size", "32", "--batch-size", "4", "--device", "cpu", "--epochs", "1")
    resume = ("finetune", "--resume", str(folder / "a"), "--epochs", "2")
    statuses = [
        run(("finetune", "--help")),
        run((*small, "-o", str(folder / "a"))),
        run((*resume, "--mixup", "0.5")),
        run((*resume, "--fast-math", "--loud")),
        run((*small, "--seed", "1", "--fast-math", "--loud", "-o", str(folder / "b"))),
        run((*small, "--seed", "1", "--mixup", "0.5", "-o", str(folder / "c"))),
    ]
    runs = load_runs([folder / name for name in "abc"])
    runs[0].description["options"]["epochs"] = 1.0  # it was made longer
    groups = [[one.name for one in group] for group in replicates(runs)]
    print(json.dumps({"statuses": statuses, "groups": groups}))
""")


def test_a_new_field_is_in_the_help_the_resume_check_and_the_grouping_of_runs(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", NEW_OPTIONS, tmp_path], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["statuses"] == [0, 0, 1, 0, 0, 0]
    assert found["groups"] == [["a", "b"], ["c"]]
    below = finished.stdout.partition("Optimizer:")[2]
    assert "--mixup FLOAT" in below.partition("Averages:")[0]
    assert "Mix pairs of images.  [default: 0.0]" in below
    assert "mixup was 0.0, is now 0.5" in finished.stderr
    assert (
        "not bit for bit the same as an uninterrupted run: fast math True, was False"
        in finished.stderr
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    size: int | None = option(None, help="How large.", section="Shape", bounds=COUNT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    round_: bool = option(True, help="No corners.", flag="--round", section="Shape")
    named: dict[str, object] = option(factory=dict, help="More.", metavar="NAME=VALUE")
    private: int = 3


@click.command(name="draw")
@options_of(Outer)
def draw(**given):
    click.echo(taken(Outer, given, private=4))


def test_options_of_nested_dataclasses_lie_side_by_side():
    assert [one.flag for one in declared(Outer)] == ["--size", "--round", "--named"]
    assert sections_of(Outer) == {"Shape": ["size", "round_"]}
    assert values_of(Outer(inner=Inner(size=2))) == {"size": 2, "round_": True, "named": {}}


def test_a_command_builds_the_dataclass_from_its_options(capsys):
    draw.main(["--size", "5", "--no-round", "--named", "a=1"], standalone_mode=False)
    expected = Outer(inner=Inner(size=5), round_=False, named={"a": 1}, private=4)
    assert capsys.readouterr().out == f"{expected}\n"
    draw.main([], standalone_mode=False)
    assert capsys.readouterr().out == f"{Outer(private=4)}\n"


@pytest.mark.parametrize("arguments", [["--size", "0"], ["--size", "x"], ["--named", "a"]])
def test_a_value_that_an_option_does_not_take_is_wrong_usage(arguments):
    with pytest.raises(click.UsageError):
        draw.main(arguments, standalone_mode=False)


def test_what_a_command_does_not_ask_for_keeps_its_default():
    given = {"batch_size": 5, "seed": None, "estimator": "batch-mean", "unknown": 1}
    assert taken(BnOptions, given) == BnOptions(batch_size=5, estimator="batch-mean")


def test_options_of_one_pass_are_taken_over_by_another_but_for_its_batches(tmp_path):
    run = FinetuneOptions(output=tmp_path, workers=3, amp="off", channels_last=False, device="cpu")
    how = {"workers": 3, "amp": "off", "channels_last": False, "device": "cpu"}
    assert BnOptions.as_in(run, n_samples=7) == BnOptions(**how, n_samples=7)
    assert EvaluationOptions.as_in(run, batch_size=9) == EvaluationOptions(**how, batch_size=9)


def test_every_option_of_a_run_says_what_it_does():
    options = [*declared(FinetuneOptions), *declared(JobOptions)]
    assert [one.name for one in options if not one.option.help.endswith((".", "…"))] == []
    assert len({one.flag for one in options}) == len(options)


def test_what_a_resumed_run_must_have_in_common_is_kept_with_the_run(tmp_path):
    kept = recorded(FinetuneOptions(output=tmp_path, checkpoint=tmp_path / "x.pth"))
    assert {one.name for one in compared(FinetuneOptions)} <= kept.keys()
    assert kept["checkpoint"] == str(tmp_path / "x.pth")
    assert not {"output", "force", "resume", "resume_if_exists"} & kept.keys()
    assert recorded(JobOptions()) == {"then_average": False, "tensorboard": False}
