import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from swa_tools.batchnorm import BnOptions, recompute
from swa_tools.checkpoints import find_checkpoints, read_metadata
from swa_tools.data import PassOptions, evaluation_loader, hold_out, map_to_outputs, open_images
from swa_tools.distributed import single_process
from swa_tools.errors import DataError, OutputError
from swa_tools.evaluation import EvaluationOptions, evaluate
from swa_tools.models import load_checkpoint, load_into, save_state_dict
from swa_tools.selection import Setting, greedy_soup

CPU = single_process("cpu")
BN = BnOptions(batch_size=8, workers=0, channels_last=False)
EVALUATION = EvaluationOptions(batch_size=8, workers=0, channels_last=False)


@pytest.fixture
def images(image_folder):
    return hold_out(open_images(image_folder / "train"), 9, seed=0)


def make_soup(paths, output, images, *, trial_samples=12):
    held_out, train = images
    setting = Setting(train=train, bn=BN, evaluation=EVALUATION, context=CPU)
    return greedy_soup(
        paths, output, held_out=held_out, setting=setting, trial_samples=trial_samples
    )


def n_correct_of(state_dicts, path, images):
    """Images right by the plain mean of the weights, BatchNorm recomputed on the trial's subset."""
    held_out, train = images
    built, _ = load_checkpoint(path)
    mean = {
        name: torch.stack([one[name].double() for one in state_dicts]).mean(0).to(tensor.dtype)
        for name, tensor in state_dicts[0].items()
    }
    load_into(built.module, mean, where="mean")
    options = dataclasses.replace(BN, n_samples=12)
    recompute(
        [built.module], train, preprocessing=built.preprocessing, options=options, context=CPU
    )
    batches = evaluation_loader(
        map_to_outputs(held_out, built.info),
        built.preprocessing,
        options=PassOptions(device="cpu", batch_size=8, workers=0, channels_last=False),
    )
    return evaluate({"mean": built.module}, batches).scores["mean"].n_correct


def test_a_soup_is_that_of_the_recipe_in_a_plain_loop(run_with_captures, images, tmp_path):
    paths = find_checkpoints([run_with_captures])
    # A checkpoint that spoils every soup.
    spoilt = run_with_captures / "checkpoints" / "cycle-004.safetensors"
    random = torch.Generator().manual_seed(0)
    state_dict = {
        name: torch.randn(tensor.shape, generator=random).abs() if tensor.ndim else tensor
        for name, tensor in load_file(paths[0]).items()
    }
    save_state_dict(spoilt, state_dict, read_metadata(paths[0]))
    paths.append(spoilt)
    soup = make_soup(paths, tmp_path / "soup.safetensors", images)

    assert sorted(step.path for step in soup.steps) == sorted(paths)
    alone = [step.alone.n_correct for step in soup.steps]
    assert alone == sorted(alone, reverse=True)
    taken, best = [], -1
    for step in soup.steps:
        candidate = load_file(step.path)
        n_correct = n_correct_of([*taken, candidate], step.path, images)
        assert step.together.n_correct == n_correct
        assert step.is_taken == (n_correct >= best)
        if step.is_taken:
            taken.append(candidate)
            best = n_correct
    assert soup.steps[0].is_taken

    written = load_file(tmp_path / "soup.safetensors")
    for name, tensor in written.items():
        if tensor.is_floating_point() and "running_" not in name:
            mean = torch.stack([one[name].double() for one in taken]).mean(0).float()
            torch.testing.assert_close(tensor, mean, rtol=1e-7, atol=0)
    metadata = read_metadata(tmp_path / "soup.safetensors")
    assert (metadata.kind, metadata.bn.state) == ("soup", "updated")
    assert metadata.bn.n_samples == len(images[1])
    sources = [source.name for source in metadata.average.sources]
    assert sources == [step.path.name for step in soup.taken]


def test_copies_count_once_and_an_existing_output_is_kept(run_with_captures, images, tmp_path):
    paths = find_checkpoints([run_with_captures])
    output = tmp_path / "soup.safetensors"
    soup = make_soup([*paths, paths[0]], output, images)
    assert len(soup.steps) == 3
    before = output.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        make_soup(paths, output, images)
    assert output.read_bytes() == before


def test_a_failure_leaves_nothing(run_with_captures, images, tmp_path):
    held_out, train = images
    broken = dataclasses.replace(train, paths=("blue/none.JPEG", *train.paths[1:]))
    folder = tmp_path / "outputs"
    folder.mkdir()
    paths = find_checkpoints([run_with_captures])
    with pytest.raises(DataError, match=r"none\.JPEG"):
        make_soup(paths, folder / "soup.safetensors", (held_out, broken), trial_samples=99)
    assert list(folder.iterdir()) == []
