import json

import pytest

from swa_tools.checkpoints import read_metadata
from swa_tools.cli import run
from swa_tools.records import read_records


@pytest.fixture
def soup(image_folder, run_with_captures, tmp_path, capsys):
    def call(*arguments, status=0):
        common = ["--data", image_folder, "--device", "cpu", "--workers", "0"]
        output = ["-o", tmp_path / "soup.safetensors"]
        assert run(["soup", *map(str, (run_with_captures, *common, *output, *arguments))]) == status
        return capsys.readouterr()

    return call


def test_it_says_what_was_chosen_and_writes_the_soup(soup, run_with_captures, tmp_path):
    printed = soup("--held-out", "6", "--trial-samples", "9").out
    assert "taken" in printed
    assert "6 held-out training images" in printed
    metadata = read_metadata(tmp_path / "soup.safetensors")
    assert (metadata.kind, metadata.bn.state, metadata.bn.n_samples) == ("soup", "updated", 18)
    (record,) = read_records(run_with_captures / "results.jsonl")
    assert (record.checkpoint, record.kind, record.split) == ("soup.safetensors", "soup", "train")
    assert record.n_samples == 6


def test_json_names_every_candidate(soup):
    document = json.loads(soup("--split", "val", "--json").out)
    assert document["split"] == "val"
    assert len(document["candidates"]) == 3
    assert document["candidates"][0]["is_taken"] is True
    assert document["candidates"][0]["together"]["n_samples"] == 12


def test_wrong_usage_and_errors(soup):
    assert "--held-out" in soup("--split", "val", "--held-out", "5", status=2).err
    found = soup("--held-out", "24", status=1)
    assert "cannot hold out 24 of 24 images" in found.err
    assert found.err.count("\n") == 1
    message = soup("-o", "soup.pth", status=1).err
    assert "soup.pth: torch's files keep no metadata, which the scores need" in message
