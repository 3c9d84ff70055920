import html.parser
import itertools
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from swa_tools.cli import run as run_command
from swa_tools.records import Record, append_records
from swa_tools.report.attachments import read_attachments
from swa_tools.report.contents import overview, run_section
from swa_tools.report.page import render_page
from swa_tools.report.runs import load_run, load_runs


@pytest.fixture
def page_of():
    def call(*folders):
        runs = load_runs(folders)
        sections = [run_section(one, runs) for one in runs]
        return render_page("SWA report", overview(runs), sections).decode()

    return call


class Outline(html.parser.HTMLParser):
    """What a screen reader meets: headings, images, tables, links, and whether tags are closed."""

    VOID = frozenset({"meta", "link", "img", "source", "br"})

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.links, self.images, self.headings = [], [], [], [], []
        self.addresses, self.scopes = [], 0
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.images.append(found)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.addresses += [v for k, v in attributes if k in ("src", "srcset", "href", "action")]
        self.scopes += "scope" in found

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def outline(full_page):
    return Outline(full_page.read_text())


def test_page_is_well_formed_and_leads_nowhere_else(full_page, outline):
    page = full_page.read_text()
    assert len(set(outline.ids)) == len(outline.ids)
    inner = [address for address in outline.addresses if address.startswith("#")]
    assert {address[1:] for address in inner} <= set(outline.ids)
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page.partition("</style>")[0]


def test_headings_leave_out_no_level(outline):
    headings = outline.headings
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_every_image_says_in_a_sentence_what_it_shows(outline):
    images = outline.images
    assert len(images) == 1 + 4 + 4  # the comparison, four runs, and four of the loss surface
    for image in images:
        assert len(image["alt"]) > 40
        assert image["alt"].endswith(".")
        assert image["width"]
        assert image["height"]


def test_tables_name_their_rows_and_columns(full_page, outline):
    page = full_page.read_text()
    assert outline.scopes > 30
    assert page.count('role="region" tabindex="0" aria-label=') == page.count("<table")


def test_page_says_how_to_obtain_each_number(full_page):
    for command in (
        "swa-tools finetune timm/resnet18 -o swa-seed0 --seed 0",
        "swa-tools average swa-seed0 --data images -o swa.safetensors",
        "swa-tools plane",
        "swa-tools trajectory",
    ):
        assert f"<code>{command}</code>" in full_page.read_text()


def test_sweep_ablation_and_logits_come_with_their_commands(write_run, page_of):
    folder = write_run("run", average=70.0)
    swept = [
        Record(
            event="evaluation",
            checkpoint=f"first-{n:03d}.safetensors",
            kind="average",
            split="val",
            n_samples=1000,
            top1=60.0 + n,
            command="swa-tools sweep run --data images",
        )
        for n in (1, 2)
    ]
    append_records(folder / "results.jsonl", swept)
    ablation = {
        "curves": {"population": [[256, 60.0]]},
        "baselines": {},
        "command": "python bn_ablation.py run",
    }
    (folder / "bn-ablation.json").write_text(json.dumps(ablation))
    tensors = {"logits": np.eye(4, dtype=np.float32), "targets": np.arange(4)}
    command = "swa-tools evaluate run --save-logits run"
    save_file(tensors, folder / "a-01.logits.safetensors", metadata={"command": command})
    save_file(tensors, folder / "b-02.logits.safetensors")
    page = page_of(folder)
    for what, expected in (
        ("sweep", "swa-tools sweep run --data images"),
        ("BatchNorm recompute", "python bn_ablation.py run"),
        ("logits of a", command),
    ):
        assert page.count(f"<h4>{what}</h4><pre><code>{expected}</code></pre>") == 1
    assert "logits of b" not in page


def test_logits_of_the_same_name_are_told_apart(write_run):
    folder = write_run("run")
    tensors = {"logits": np.eye(4, dtype=np.float32), "targets": np.arange(4)}
    for name in ("swa-01", "swa-02", "cycle-003-03"):
        save_file(tensors, folder / f"{name}.logits.safetensors")
    assert list(read_attachments(folder).logits) == ["cycle-003", "swa-01", "swa-02"]


def test_files_of_the_same_name_have_a_picture_each(write_run, write_surfaces):
    folder = write_run("run")
    (folder / "landscape").mkdir()
    write_surfaces(folder)
    write_surfaces(folder / "landscape")
    (folder / "rays.npz").rename(folder / "run.npz")
    (folder / "segment.npz").rename(folder / "Landscape-Plane.npz")
    run = load_run(folder)
    section = run_section(run, [run])
    assert set(section.pictures) == {
        "run",
        "run-rays",
        "plane",
        "trajectory",
        "Landscape-Plane",
        *("landscape-plane-plane", "landscape-rays", "landscape-segment", "landscape-trajectory"),
    }
    assert set(section.picture_tables) == set(section.pictures) - {"run"}
    titles = [picture.title for picture in section.pictures.values()]
    assert len(set(titles)) == len(titles)
    assert section.pictures["plane"].title.endswith(": plane.npz")
    assert dict(section.commands)["plane.npz, landscape/plane.npz"] == "swa-tools plane"


def test_what_others_called_their_files_is_text_and_not_markup(write_run, page_of):
    name = "<script>alert('&\"')<b>"
    page = page_of(write_run(name.replace("/", "")))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    Outline(page)


def test_same_runs_give_the_same_page(write_run, page_of):
    folder = write_run("run", average=70.0)
    assert page_of(folder) == page_of(folder)


def test_a_run_with_nothing_but_a_start_has_a_page(write_run, page_of):
    folder = write_run("run")
    records = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(records[0] + "\n")
    assert "Nothing was scored yet" in page_of(folder)


def test_logits_and_ablation_in_the_run_are_drawn(write_run, page_of):
    folder = write_run("run")
    (folder / "logits").mkdir()
    tensors = {"logits": np.eye(4, dtype=np.float32), "targets": np.arange(4)}
    save_file(tensors, folder / "logits" / "swa-0123456789abcdef.logits.safetensors")
    ablation = {"curves": {"population": [[256, 60.0], [1000, 62.0]]}, "baselines": {"stale": 50}}
    (folder / "bn-ablation.json").write_text(json.dumps(ablation))
    page = page_of(folder)
    assert "Expected calibration error: swa 52.46 %" in page
    assert "With the most images: population 62.00 %" in page


@pytest.mark.parametrize(
    ("name", "content"),
    [("bn-ablation.json", b'{"curves": 3}'), ("a-1.logits.safetensors", b"no tensors")],
)
def test_a_broken_file_in_the_run_is_a_clear_error(write_run, tmp_path, capsys, name, content):
    folder = write_run("run")
    (folder / name).write_bytes(content)
    assert run_command(["report", str(folder), "-o", str(tmp_path / "page")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert name in error
