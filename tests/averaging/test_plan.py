"""What fits together, from headers alone, and what is said where it does not."""

import re

import ml_dtypes
import numpy as np
import pytest

from swa_tools.averaging import (
    AverageOptions,
    TensorRules,
    Uniform,
    average_checkpoints,
    describe_average,
    iterate_average,
    open_all,
    plan_average,
)
from swa_tools.checkpoints import (
    BnInfo,
    CheckpointMetadata,
    ModelInfo,
    content_digest,
    read_metadata,
    write_checkpoint,
)
from swa_tools.errors import CheckpointError, SwaToolsError

BASE = {"w": np.ones((2, 3), np.float32), "n": np.array(1)}


def plan(paths, **options):
    with open_all(paths) as opened:
        return plan_average(opened, Uniform(), **options)


def refusal(paths, **options):
    with pytest.raises(CheckpointError) as caught:
        plan(paths, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return message


def test_every_tensor_is_averaged_copied_or_compared(checkpoints, states):
    actions = {tensor.name: tensor.action for tensor in plan(checkpoints(*states(2))).tensors}
    assert actions.pop("bn.num_batches_tracked") == "last"
    assert [name for name, action in actions.items() if action == "equal"] == ["index", "mask"]
    assert set(actions.values()) == {"average", "equal"}


def test_sizes_are_known_before_anything_is_read(checkpoints):
    paths = checkpoints(BASE, BASE, BASE)
    made = plan(paths)
    assert made.bytes_read == 3 * (24 + 8)
    assert made.bytes_written == 24 + 8
    assert plan(paths, dtype="BF16").bytes_written == 12 + 8


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"w": BASE["w"]}, "not of the same model as .*000.*: it lacks 'n'"),
        ({**BASE, "x": np.ones(1)}, "only it has 'x'"),
        ({"v": BASE["w"], "n": BASE["n"]}, "it lacks 'w'; only it has 'v'"),
        (
            {f"module{i}.w": np.ones(1) for i in range(5)},
            r"it lacks '\w' and 1 more; only it has 'module0.w' and 4 more",
        ),
        ({**BASE, "w": np.ones((3, 2), np.float32)}, r"'w' has shape \(3, 2\), .* \(2, 3\)$"),
        ({**BASE, "w": np.ones(6, np.float32)}, r"'w' has shape \(6,\)"),
        ({**BASE, "w": np.ones((2, 3), np.float16)}, "'w' has dtype F16, .* F32; give --dtype"),
        ({**BASE, "n": np.array(1, np.int32)}, "'n' has dtype I32"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_with_its_tensor(checkpoints, other, message):
    paths = checkpoints(BASE, BASE, other)
    found = refusal(paths)
    assert found.startswith(f"{paths[2]}: ")
    assert re.search(message, found), found


def test_mixed_dtypes_are_averaged_where_the_output_is_said(checkpoints, average):
    arrays = [np.full(3, 1, np.float32), np.full(3, 2, np.float16), np.full(3, 3, np.float64)]
    arrays.append(np.full(3, 4, ml_dtypes.bfloat16))
    found = average(checkpoints(*({"w": array} for array in arrays)), dtype="F32")
    assert found["w"].dtype == np.float32
    np.testing.assert_array_equal(found["w"], [2.5, 2.5, 2.5])


@pytest.mark.parametrize("other", [np.ones(3, np.complex64), np.ones(3, np.int32)])
def test_mixed_kinds_of_numbers_are_refused_whatever_the_output(checkpoints, other):
    paths = checkpoints({"w": np.ones(3, np.float32)}, {"w": other})
    assert "tensor 'w' has dtype" in refusal(paths, dtype="F32")


@pytest.mark.parametrize(
    "dtype", ["f32", "float32", "F4", "F8_E8M0", "I64", "BOOL", "C64", "x", ""]
)
def test_an_output_dtype_that_holds_no_average_is_refused(checkpoints, dtype):
    message = refusal(checkpoints(BASE, BASE), dtype=dtype)
    assert message.startswith(f"--dtype {dtype}: expected one of F64, F32, F16, BF16, F8_E4M3")


def test_complex_tensors_stay_complex_whatever_the_output(checkpoints, average):
    paths = checkpoints(*({"z": np.full(2, k * 1j, np.complex64), **BASE} for k in (1, 3)))
    found = average(paths, dtype="F16")
    assert found["w"].dtype == np.float16
    np.testing.assert_array_equal(found["z"], np.array([2j, 2j], np.complex64))
    assert found["z"].dtype == np.complex64


def test_nothing_and_empty_files_are_refused(checkpoints):
    assert refusal([]) == "nothing to average: no checkpoint was given"
    assert refusal(checkpoints({})).endswith("000.safetensors: there are no tensors in it")


def test_ties_must_be_the_same(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    write_checkpoint(paths[0], BASE, None, ties={"head": "w"})
    write_checkpoint(paths[1], BASE, None)
    assert "b.safetensors: other tensors are tied than in" in refusal(paths)
    write_checkpoint(paths[1], BASE, None, ties={"head": "w"}, force=True)
    assert plan(paths).ties == {"head": "w"}


def test_checkpoints_of_different_models_are_refused(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path, name in zip(paths, ("timm/resnet18", "timm/resnet34"), strict=True):
        model = ModelInfo(name=name, num_classes=10)
        bn = BnInfo(state="trained")
        metadata = CheckpointMetadata(kind="checkpoint", model=model, bn=bn, swa_tools="0.1.0")
        write_checkpoint(path, BASE, metadata)
    with pytest.raises(CheckpointError, match="b.safetensors: .*resnet34") as caught:
        describe_average(plan(paths))
    assert "a.safetensors" in str(caught.value)


class TestExceptions:
    @pytest.fixture
    def paths(self, checkpoints):
        states = [
            {**BASE, "head.w": np.full(2, k, np.float32), "queue_ptr": np.array(k)} for k in (1, 3)
        ]
        states[1]["extra"] = np.ones(1)
        return checkpoints(*states)

    def averaged(self, paths, **patterns):
        rules = TensorRules(**{name: tuple(value) for name, value in patterns.items()})
        with open_all(paths) as opened:
            made = plan_average(opened, Uniform(), rules=rules)
            return {name: array.tolist() for name, array in iterate_average(made)}

    def test_tensors_are_left_out_by_their_names(self, paths):
        found = self.averaged(paths, exclude=["queue_*", "extra"])
        assert found.keys() == {"w", "n", "head.w"}
        assert found["head.w"] == [2, 2]

    def test_tensors_are_taken_from_the_last_checkpoint(self, paths):
        found = self.averaged(paths, from_last=["queue_ptr", "head.*"], exclude=["extra"])
        assert (found["queue_ptr"], found["head.w"]) == (3, [3, 3])

    def test_only_some_tensors_are_taken(self, paths):
        assert self.averaged(paths, only=["head.*"]) == {"head.w": [2, 2]}

    @pytest.mark.parametrize("kind", ["only", "exclude", "from_last"])
    def test_a_pattern_that_means_nothing_is_refused(self, paths, kind):
        flag = kind.replace("_", "-")
        with pytest.raises(SwaToolsError, match=rf"--{flag} haed\.\*: no tensor has such a name"):
            self.averaged(paths, **{kind: ["haed.*"]})

    def test_nothing_left_is_refused(self, paths):
        with pytest.raises(CheckpointError, match="no tensor is left of it by --only and"):
            self.averaged(paths, exclude=["*"])

    def test_the_metadata_keep_them_and_the_digests_are_those_of_whole_sources(
        self, paths, tmp_path
    ):
        rules = TensorRules(exclude=("queue_ptr", "extra"))
        output = tmp_path / "out.safetensors"
        result = average_checkpoints(paths, output, options=AverageOptions(rules=rules))
        average = read_metadata(output).average
        assert (average.exclude, average.only, average.from_last) == (rules.exclude, (), ())
        assert [one.digest for one in average.sources] == [content_digest(path) for path in paths]
        assert result.digest == content_digest(output)
