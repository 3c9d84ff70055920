"""What a checkpoint says of itself, and whether the sources of an average are still the same."""

import numpy as np
import pytest

from swa_tools.averaging import average_checkpoints
from swa_tools.checkpoints import content_digest, open_checkpoint, write_checkpoint
from swa_tools.checkpoints.inspection import check_sources, inspect_checkpoint

ARRAYS = {
    "w": np.ones((2, 3), np.float32),
    "b": np.ones(3, np.float32),
    "n": np.array(1),
}


@pytest.fixture
def inspected():
    def inspect(*paths, digest=True):
        result = []
        for path in paths:
            with open_checkpoint(path) as checkpoint:
                result.append(inspect_checkpoint(checkpoint, digest=digest))
        return result

    return inspect


def test_an_inspection_counts_tensors_elements_and_bytes(tmp_path, inspected):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, ARRAYS, None)
    (found,) = inspected(path, digest=False)
    assert (found.n_tensors, found.n_elements, found.n_bytes) == (3, 10, 9 * 4 + 8)
    assert found.dtypes == {"F32": 2, "I64": 1}
    assert list(found.dtypes) == ["F32", "I64"]
    assert found.bn == "unknown"
    assert found.metadata is None
    assert found.digest is None
    assert inspected(path)[0].digest == content_digest(path)


def test_sources_are_the_same_changed_or_not_at_hand(tmp_path, inspected):
    paths = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for k, path in enumerate(paths):
        write_checkpoint(path, {**ARRAYS, "w": np.full((2, 3), float(k))}, None)
    average = tmp_path / "average.safetensors"
    average_checkpoints(paths, average)
    write_checkpoint(paths[1], ARRAYS, None, force=True)
    checks = check_sources(inspected(average, *paths[:2]))
    assert [check.source.name for check in checks] == [path.name for path in paths]
    assert [check.is_same for check in checks] == [True, False, None]
    assert checks[1].found == content_digest(paths[1]) != checks[1].source.digest
