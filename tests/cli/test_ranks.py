"""The commands that pass over images, on two ranks: as on one, and one rank speaks."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import safetensors.numpy

from swa_tools.cli import run

TABLES = [
    ["evaluate", "RUN", "--ensemble", "--save-logits", "OUT/logits"],
    ["update-bn", "RUN/average.safetensors", "-o", "OUT/swa.safetensors", "--samples", "19"],
    ["soup", "RUN", "-o", "OUT/soup.safetensors", "--held-out", "7"],
    ["sweep", "RUN", "--samples", "13", "--csv", "OUT/sweep.csv"],
]
BAD = ["evaluate", "RUN/missing.safetensors"]


def call(command, *, data, run_directory, out):
    """Run a command; return its status and what it printed on stdout."""
    places = {"RUN": run_directory, "OUT": out}
    arguments = [
        str(Path(places[head], *rest)) if head in places else one
        for one in command
        for head, *rest in [one.split("/")]
    ]
    common = ["--device", "cpu", "--workers", "0", "--batch-size", "5", "--json"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        status = run([*arguments, "--data", str(data), *common])
    return status, printed.getvalue()


def call_all(_context, data, run_directory, out):
    places = {"data": data, "run_directory": run_directory, "out": out}
    return [call(command, **places) for command in (*TABLES, BAD)]


def numbers_in(document):
    """Yield the numbers of a JSON document, in its order."""
    if isinstance(document, dict):
        for value in document.values():
            yield from numbers_in(value)
    elif isinstance(document, list):
        for value in document:
            yield from numbers_in(value)
    elif isinstance(document, int | float):
        yield document


def test_two_ranks_print_and_write_what_one_does(
    run_with_captures, image_folder, tmp_path, on_ranks
):
    outputs = {}
    for name in ("one", "two"):
        outputs[name] = tmp_path / name
        outputs[name].mkdir()
    first, second = on_ranks(call_all, image_folder, run_with_captures, outputs["two"])
    assert [status for status, _ in first] == [status for status, _ in second] == [0] * 4 + [1]
    assert [printed for _, printed in second] == [""] * 5
    for command, (_, printed) in zip(TABLES, first, strict=False):
        status, expected = call(
            command, data=image_folder, run_directory=run_with_captures, out=outputs["one"]
        )
        assert status == 0
        found, expected = (list(numbers_in(json.loads(text))) for text in (printed, expected))
        assert found == pytest.approx(expected, rel=1e-4), command[0]
    for name in ("swa.safetensors", "soup.safetensors"):
        one, two = (safetensors.numpy.load_file(outputs[which] / name) for which in ("one", "two"))
        for key, tensor in one.items():
            # A number of threads rounds as it does.
            assert two[key] == pytest.approx(tensor, rel=1e-4, abs=1e-6), key
    assert (outputs["two"] / "sweep.csv").exists()
    assert len(list((outputs["two"] / "logits").iterdir())) == 3
