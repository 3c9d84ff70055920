import json

import numpy as np
import pytest

from swa_tools.errors import SwaToolsError
from swa_tools.measurements import describe, description_text, read_numbers, save_numbers


@pytest.mark.parametrize("kind", ["plane", "rays", "segment", "trajectory"])
def test_numbers_are_read_back_as_they_were_written(tmp_path, kind):
    path, arrays = tmp_path / "numbers.npz", {"x": np.arange(3.0), "y": np.eye(2)}
    description = describe(kind, command=f"swa-tools {kind}", images={"val": {"n_samples": 3}})
    with open(path, "wb") as file:
        save_numbers(file, arrays=arrays, description=description)
    numbers = read_numbers(path)
    assert (numbers.path, numbers.kind) == (path, kind)
    assert numbers.description == description == json.loads(description_text(description))
    assert set(numbers.arrays) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(numbers.arrays[name], array)


def test_a_description_without_a_number_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        description_text(describe("plane", distance=float("nan")))


def test_a_file_of_another_tool_is_refused(tmp_path):
    path = tmp_path / "theirs.npz"
    np.savez(path, x=np.arange(3))
    with pytest.raises(SwaToolsError, match="expected an .npz from swa-tools"):
        read_numbers(path)
    path.write_bytes(b"no archive")
    with pytest.raises(SwaToolsError, match="expected an .npz from swa-tools"):
        read_numbers(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(SwaToolsError, match="expected an .npz from swa-tools"):
        read_numbers(path)
    with pytest.raises(SwaToolsError, match=r"missing\.npz: cannot read this file: No such file"):
        read_numbers(tmp_path / "missing.npz")


def test_nothing_in_a_file_is_unpickled(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object), description=np.array("{}"))
    with pytest.raises(SwaToolsError, match="expected an .npz from swa-tools"):
        read_numbers(path)


def test_a_newer_file_is_refused(tmp_path):
    path = tmp_path / "newer.npz"
    np.savez(path, description=np.array('{"schema": 99, "kind": "plane"}'))
    with pytest.raises(SwaToolsError, match="schema 99.*update"):
        read_numbers(path)
