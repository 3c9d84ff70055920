import numpy as np
import pytest

from swa_tools.errors import SwaToolsError
from swa_tools.report.number_tables import tables_of, verdict
from swa_tools.report.numbers import read_numbers


def test_numbers_are_read_back_as_they_were_written(tmp_path, write_surfaces):
    write_surfaces(tmp_path)
    for kind in ("plane", "rays", "segment", "trajectory"):
        numbers = read_numbers(tmp_path / f"{kind}.npz")
        assert numbers.kind == kind
        assert numbers.description["command"] == f"swa-tools {kind}"
        assert "description" not in numbers.arrays


@pytest.mark.parametrize("kind", ["plane", "rays", "segment", "trajectory"])
def test_every_row_of_their_tables_has_all_cells(tmp_path, write_surfaces, kind):
    write_surfaces(tmp_path)
    for table in tables_of(read_numbers(tmp_path / f"{kind}.npz")):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert len(table.kinds) == len(table.rows)
        assert table.caption


def test_a_file_of_another_tool_is_refused(tmp_path):
    path = tmp_path / "theirs.npz"
    np.savez(path, x=np.arange(3))
    with pytest.raises(SwaToolsError, match="expected the .npz of swa-tools"):
        read_numbers(path)
    path.write_bytes(b"no archive")
    with pytest.raises(SwaToolsError, match="expected the .npz of swa-tools"):
        read_numbers(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(SwaToolsError, match="expected the .npz of swa-tools"):
        read_numbers(path)
    with pytest.raises(SwaToolsError, match=r"missing\.npz: cannot read it: No such file"):
        read_numbers(tmp_path / "missing.npz")


def test_nothing_in_a_file_is_unpickled(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object), description=np.array("{}"))
    with pytest.raises(SwaToolsError, match="expected the .npz of swa-tools"):
        read_numbers(path)


def test_a_newer_file_is_refused(tmp_path):
    path = tmp_path / "newer.npz"
    np.savez(path, description=np.array('{"schema": 99, "kind": "plane"}'))
    with pytest.raises(SwaToolsError, match="schema 99.*update"):
        read_numbers(path)


@pytest.mark.parametrize(
    ("measured", "word"), [(0.95, "Exploring"), (0.3, "Drifting"), (0.06, "Still descending")]
)
def test_verdict_names_the_motion_that_is_nearest(measured, word):
    found = {"measured": measured, "independent": 1.0, "random_walk": 0.27, "straight": 0.05}
    assert verdict(found).startswith(word)
