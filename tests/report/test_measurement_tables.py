import dataclasses

import pytest

from swa_tools.measurements import read_numbers
from swa_tools.report.measurement_tables import tables_of, verdict


@pytest.mark.parametrize("kind", ["plane", "rays", "segment", "trajectory"])
def test_every_row_of_their_tables_has_all_cells(tmp_path, write_surfaces, kind):
    write_surfaces(tmp_path)
    for table in tables_of(read_numbers(tmp_path / f"{kind}.npz")):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert len(table.kinds) == len(table.rows)
        assert table.caption


def tables_with(path, *, arrays=(), **description):
    """Return the tables of a file, its arrays and its description changed."""
    numbers = read_numbers(path)
    return tables_of(
        dataclasses.replace(
            numbers,
            arrays=numbers.arrays | dict(arrays),
            description=numbers.description | description,
        )
    )


@pytest.mark.parametrize("kind", ["plane", "rays", "segment"])
def test_numbers_of_a_network_with_stale_batchnorm_are_said_to_be_wrong(
    tmp_path, write_surfaces, kind
):
    write_surfaces(tmp_path)
    path = tmp_path / f"{kind}.npz"
    (table,) = tables_with(path, has_batchnorm=True, bn_samples=0)
    assert "BatchNorm was NOT recomputed (--bn-samples 0)" in table.caption
    assert "wrong for this network" in table.caption
    for further in ({"has_batchnorm": False, "bn_samples": 0}, {}):
        (table,) = tables_with(path, **further)
        assert "NOT" not in table.caption


def test_a_minimum_at_the_end_of_the_range_is_said_to_be_there(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    path = tmp_path / "segment.npz"
    width = read_numbers(path).description["width"]
    (table,) = tables_with(path, width=width | {"train_minimum": 8.0, "test_minimum": -4.0})
    cells = dict(table.rows)
    beyond = "the end of the measured range: the minimum may lie beyond"
    assert cells["train loss with L2 term is lowest at"] == f"8, {beyond}"
    assert cells["test error is lowest at"] == f"-4, {beyond}"
    (table,) = tables_with(path, width=width | {"train_minimum": 2.0, "test_minimum": 1.0})
    assert not any("beyond" in cell for row in table.rows for cell in row)


def test_trace_stands_beside_what_was_measured(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    path = tmp_path / "trajectory.npz"
    plain = tables_with(path)[1]
    squares = {
        "squared_to_mean": {"measured": 4.0, "independent": 4.0},
        "squared_step": {"measured": 7.5, "independent": 10.0},
    }
    table = tables_with(path, trace=5.0, **squares)[1]
    assert len(table.rows) == len(plain.rows) + 2
    assert table.rows[-2][1:] == ("4", "4", "-", "-")
    assert table.rows[-1][1:] == ("7.5", "10", "-", "-")
    assert "(1 − 1/n)·trΣ" in table.rows[-2][0]
    assert table.caption.endswith("trΣ of the captures is 5.")


def test_a_distance_has_no_negative_interval(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    path = tmp_path / "rays.npz"
    description = read_numbers(path).description
    checkpoints, wider = description["checkpoints"], description["wider_than_next"]
    checkpoints[0]["width"]["1"] |= {"mean": 1.0, "interval": [-0.5, 2.5]}
    wider[0]["1"] = {"mean": 1.0, "interval": [-0.5, 2.5]}
    (table,) = tables_with(path, checkpoints=checkpoints, wider_than_next=wider)
    position = table.columns.index("95 % (+1 points)")
    assert table.rows[0][position] == "0 to 2.5"
    assert table.rows[-1][position] == "-0.5 to 2.5"  # a difference may be negative


@pytest.mark.parametrize(
    ("measured", "word"), [(0.95, "Exploring"), (0.3, "Drifting"), (0.06, "Still descending")]
)
def test_verdict_names_the_motion_that_is_nearest(measured, word):
    found = {"measured": measured, "independent": 1.0, "random_walk": 0.27, "straight": 0.05}
    assert verdict(found).startswith(word)
