import json
import runpy
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "bn_ablation.py"


def test_the_example_prints_a_line_for_each_way_and_writes_its_points(
    run_with_captures, image_folder, tmp_path, capsys, monkeypatch
):
    output = tmp_path / "bn-ablation.json"
    arguments = [run_with_captures, run_with_captures, "--data", image_folder]
    arguments += ["--samples", 8, 24, "--workers", 0, "--output", output]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "12 images of val, 2 runs: mean ± standard deviation"
    names = [line[:32].strip() for line in lines[2:]]
    # The captures do not say how they were trained: crops from 0.08 are the training view.
    assert names == [
        *("last checkpoint", "stale", "of the last checkpoint"),
        *("batch-mean, 24", "sample-weighted, 24", "the authors' procedure, 24"),
        *("evaluation view, 8", "evaluation view, 24", "training view, 8", "training view, 24"),
    ]
    document = json.loads(output.read_text())
    assert [n for n, _ in document["curves"]["evaluation view"]] == [8, 24]
    assert "stale" in document["baselines"]
