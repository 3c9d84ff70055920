import json
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "bn_ablation.py"


def test_the_example_prints_a_line_for_each_choice_and_writes_its_points(
    run_with_captures, image_folder, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "bn-ablation.json"
    arguments = [run_with_captures, "--data", image_folder, "--samples", 8, 24]
    arguments += ["--workers", 0, "--output", output]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 + 2 * 3 + 1
    assert lines[0] == "The average of 3 checkpoints on 12 images of val"
    document = json.loads(output.read_text())
    assert list(document["curves"]) == ["batch-mean", "sample-weighted", "population"]
    assert [n for n, _ in document["curves"]["population"]] == [8, 24]
    assert list(document["baselines"]) == ["stale", "of the last checkpoint"]
