"""Work that is killed, and work on several ranks."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest
import torch

from swa_tools.errors import OutputError
from swa_tools.landscape import geometry
from swa_tools.landscape.plane import PlaneOptions, measure_plane
from swa_tools.landscape.ray import RayOptions, measure_rays
from swa_tools.landscape.surface import Surface
from swa_tools.listening import Listener

SMALL = PlaneOptions(n_points=2, margin=0.1)
N_POINTS = 3 + 2 * 2


class KilledError(Exception):
    pass


@pytest.fixture
def n_scored(monkeypatch):
    """Count the points that are scored; fail from the given one on."""
    counter = {"n": 0, "until": 10**9}
    original = Surface.score

    def score(self, *args, **kwargs):
        if counter["n"] == counter["until"]:
            raise KilledError
        counter["n"] += 1
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Surface, "score", score)
    return counter


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "description"}


def assert_same_numbers(one, other):
    one, other = arrays(one), arrays(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_killed_work_goes_on_where_it_was(captures, survey, n_scored, tmp_path):
    whole, killed = survey(output="whole.npz"), survey(output="killed.npz")
    measure_plane(captures[:3], whole, options=SMALL)
    assert n_scored["n"] == N_POINTS
    n_scored.update(n=0)
    for until in (1, 4, 5):
        n_scored["until"] = until
        with pytest.raises(KilledError):
            measure_plane(captures[:3], killed, options=SMALL)
        assert not killed.output.exists()
    n_scored["until"] = 10**9
    notices = []
    listener = Listener(on_notice=notices.append)
    measure_plane(captures[:3], dataclasses.replace(killed, listener=listener), options=SMALL)
    assert n_scored["n"] == N_POINTS  # nothing was done twice
    assert f"5 of {N_POINTS} points are already done" in notices[0]
    assert_same_numbers(whole.output, killed.output)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"whole.npz", "whole.json", "killed.npz", "killed.json"}
    assert not any(name.endswith(".points") for name in names)


@pytest.mark.parametrize("work", ["plane", "rays"])
def test_work_goes_on_where_sums_are_rounded_otherwise(
    captures, survey, n_scored, monkeypatch, work
):
    """As on another number of threads."""

    def measure():
        if work == "plane":
            measure_plane(captures[:3], survey(), options=SMALL)
        else:
            measure_rays(captures[:1], survey(), options=RayOptions(n_rays=2, n_points=3))

    n_scored["until"] = 3
    with pytest.raises(KilledError):
        measure()
    original = geometry._dot
    monkeypatch.setattr(geometry, "_dot", lambda one, other: original(one, other) * (1 + 1e-14))
    n_scored["until"] = 10**9
    measure()
    assert n_scored["n"] == 7


def test_other_work_for_the_same_output_is_refused_unless_forced(captures, survey, n_scored):
    n_scored["until"] = 2
    with pytest.raises(KilledError):
        measure_plane(captures[:3], survey(), options=SMALL)
    n_scored["until"] = 10**9
    with pytest.raises(OutputError, match="another picture"):
        measure_plane(captures[:3], survey(val_samples=6), options=SMALL)
    n_scored.update(n=0, until=3)
    for expected in (3, 1):  # --force drops the points of the other work, and keeps its own
        with pytest.raises(KilledError):
            measure_plane(captures[:3], survey(val_samples=6, force=True), options=SMALL)
        assert n_scored["n"] == expected
        n_scored.update(n=0, until=1)
    n_scored["until"] = 10**9
    measure_plane(captures[:3], survey(val_samples=6, force=True), options=SMALL)
    assert n_scored["n"] == N_POINTS - 4
    with pytest.raises(OutputError, match="exists already"):
        measure_plane(captures[:3], survey(val_samples=6), options=SMALL)


def test_work_that_was_killed_as_it_wrote_its_numbers_is_finished(
    captures, survey, n_scored, monkeypatch
):
    def fail(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", fail)
        with pytest.raises(KilledError):
            measure_plane(captures[:3], survey(), options=SMALL)
    assert survey().output.with_suffix(".json").exists()
    n_scored.update(n=0)
    measure_plane(captures[:3], survey(), options=SMALL)
    assert n_scored["n"] == 0
    assert survey().output.exists()


def test_progress_counts_every_image_once(captures, survey):
    totals, done = [], []

    def start(_, n_images):
        totals.append(n_images)
        return contextlib.nullcontext(done.append)

    measure_plane(captures[:3], survey(listener=Listener(on_stage=start)), options=SMALL)
    assert totals == [N_POINTS * (9 + 6 + 12)]
    assert sum(done) == totals[0]


def test_leaving_out_the_recompute_is_announced(captures, survey):
    notices = []
    listener = Listener(on_notice=notices.append)
    measure_plane(captures[:3], survey(bn_samples=0, listener=listener), options=SMALL)
    assert any("--bn-samples 0" in line and "wrong" in line for line in notices)


def plane_on_a_rank(context, output, images, *paths):
    from pathlib import Path

    from swa_tools.data import open_images
    from swa_tools.landscape.options import SurfaceOptions
    from swa_tools.landscape.survey import Survey

    counted = itertools.count()
    original = Surface.score

    def score(self, *args, **kwargs):
        next(counted)
        return original(self, *args, **kwargs)

    Surface.score = score
    survey = Survey(
        output=Path(output),
        train=open_images(Path(images) / "train"),
        val=open_images(Path(images) / "val"),
        options=SurfaceOptions(
            bn_samples=9, train_samples=6, val_samples=12, workers=0, batch_size=4
        ),
        context=context,
    )
    measure_plane([Path(path) for path in paths], survey, options=SMALL)
    return next(counted)


def test_points_spread_over_ranks(captures, survey, on_ranks, image_folder, tmp_path):
    output = tmp_path / "ranks.npz"
    assert on_ranks(plane_on_a_rank, output, image_folder, *captures[:3]) == [4, 3]
    alone = survey(output="alone.npz")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the ranks: other numbers of threads round otherwise
    try:
        measure_plane(captures[:3], alone, options=SMALL)
    finally:
        torch.set_num_threads(n_threads)
    ranks, one = arrays(output), arrays(alone.output)
    for name, array in one.items():
        np.testing.assert_allclose(ranks[name], array, rtol=1e-6, err_msg=name)
