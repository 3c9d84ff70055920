import dataclasses
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter

import numpy as np
import pytest
import torch

from swa_tools.data import (
    PassOptions,
    evaluation_loader,
    evaluation_view,
    open_images,
    statistics_loader,
    training_loader,
    training_view,
)
from swa_tools.data.workers import Decoder, DecodingPool, Task, default_workers
from swa_tools.distributed import Distributed
from swa_tools.errors import DataError

CPU = torch.device("cpu")


def how(*, rank=0, world_size=1, **options):
    """How a loader loads: on the CPU, for one of so many ranks."""
    return {
        "options": PassOptions(device="cpu", **options),
        "context": Distributed(rank=rank, world_size=world_size, device=CPU),
    }


@pytest.fixture
def images(image_folder):
    return open_images(image_folder / "train")


@pytest.fixture
def damaged(tmp_path, photograph):
    """Two classes of four images; the third of the first is cut off."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            photograph(40, 40, seed=number).save(tmp_path / name / f"{number}.jpg")
    file = tmp_path / "a" / "2.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    return open_images(tmp_path)


def joined(batches):
    """All images, targets and indices of some batches."""
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def by_index(loaders):
    """The image of each index, over the batches of all ranks."""
    return {
        int(index): image
        for batches in loaders
        for batch in batches
        for image, index in zip(batch.images, batch.indices, strict=True)
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_has_every_image_once_and_in_order(images, preprocessing, workers):
    loader = evaluation_loader(images, preprocessing, **how(batch_size=7, workers=workers))
    batches = list(loader)
    assert [len(batch.images) for batch in batches] == [7, 7, 7, 3]
    assert len(loader) == 4
    assert loader.n_samples == 24
    pixels, targets, indices = joined(batches)
    assert indices.tolist() == list(range(24))
    assert tuple(targets.tolist()) == images.targets
    assert pixels.shape == (24, 3, 32, 32)
    assert pixels.dtype == torch.float32
    assert torch.equal(joined(loader)[0], pixels)  # A loader can be used again.


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_batches_of_one_process(images, preprocessing, world_size):
    alone = list(evaluation_loader(images, preprocessing, **how(batch_size=7, workers=0)))
    for rank in range(world_size):
        loader = evaluation_loader(
            images, preprocessing, **how(batch_size=7, workers=0, rank=rank, world_size=world_size)
        )
        batches = list(loader)
        assert len(loader) == len(batches)
        assert loader.n_samples == sum(len(batch.indices) for batch in batches)
        for found, expected in zip(batches, alone[rank::world_size], strict=True):
            assert torch.equal(found.images, expected.images)
            assert torch.equal(found.targets, expected.targets)


@pytest.mark.parametrize("view", [evaluation_view, training_view])
def test_statistics_have_every_image_once_in_batches_of_the_seed(images, preprocessing, view):
    def load(*, seed=1, **ranks):
        return list(
            statistics_loader(
                images,
                preprocessing,
                seed=seed,
                view=view(preprocessing),
                **how(batch_size=5, workers=0, **ranks),
            )
        )

    alone = load()
    assert sorted(joined(alone)[2].tolist()) == list(range(24))
    assert [len(batch.images) for batch in alone] == [5, 5, 5, 5, 4]
    assert joined(alone)[2].tolist() != joined(load(seed=2))[2].tolist()
    for rank in range(2):
        for found, expected in zip(load(rank=rank, world_size=2), alone[rank::2], strict=True):
            assert torch.equal(found.indices, expected.indices)
            assert torch.equal(found.images, expected.images)


@pytest.mark.parametrize(("batch_size", "sizes"), [(23, [24]), (1, [1] * 22 + [2]), (24, [24])])
def test_last_batch_of_one_image_joins_the_one_before(images, preprocessing, batch_size, sizes):
    loader = statistics_loader(
        images,
        preprocessing,
        seed=0,
        view=evaluation_view(preprocessing),
        **how(batch_size=batch_size, workers=0),
    )
    assert [len(batch.images) for batch in loader] == sizes


def test_statistics_of_the_training_view_see_the_crops_of_training(images, preprocessing):
    """The view that a run records is the one that it trains on: its size, crops and flips."""
    view = dataclasses.replace(training_view(preprocessing, min_area=0.6), size=24)
    options = {"seed": 5, "view": view, **how(batch_size=24, workers=0)}
    found = by_index([statistics_loader(images, preprocessing, **options)])
    expected = by_index([training_loader(images, preprocessing, **options).epoch(0)])
    assert found[0].shape == (3, 24, 24)
    assert all(torch.equal(found[index], expected[index]) for index in range(24))


def test_statistics_of_the_evaluation_view_see_the_images_of_evaluation(images, preprocessing):
    options = {"batch_size": 6, "workers": 0}
    loader = statistics_loader(
        images, preprocessing, seed=0, view=evaluation_view(preprocessing), **how(**options)
    )
    expected = by_index([evaluation_loader(images, preprocessing, **how(**options))])
    found = by_index([loader])
    assert all(torch.equal(found[index], expected[index]) for index in range(24))


def test_training_is_the_same_on_any_number_of_workers_and_ranks(images, preprocessing):
    def load(epoch, *, workers, world_size):
        loaders = [
            training_loader(
                images,
                preprocessing,
                seed=5,
                **how(batch_size=8, workers=workers, rank=rank, world_size=world_size),
            )
            for rank in range(world_size)
        ]
        return [list(loader.epoch(epoch)) for loader in loaders]

    for epoch in (0, 3):
        (alone,) = load(epoch, workers=0, world_size=1)
        assert len(alone) == 3
        for workers, world_size in ((1, 1), (2, 1), (0, 2), (1, 2), (0, 4)):
            ranks = load(epoch, workers=workers, world_size=world_size)
            for step, expected in enumerate(alone):
                images_, targets, indices = joined([batches[step] for batches in ranks])
                assert indices.tolist() == expected.indices.tolist()
                assert torch.equal(images_, expected.images)
                assert torch.equal(targets, expected.targets)


def test_epochs_differ_in_order_and_augmentation(images, preprocessing):
    loader = training_loader(images, preprocessing, seed=0, **how(batch_size=8, workers=0))
    first, second = (list(loader.epoch(epoch)) for epoch in (0, 1))
    assert joined(first)[2].tolist() != joined(second)[2].tolist()
    pixels, others = by_index([first]), by_index([second])
    assert not any(torch.equal(pixels[index], others[index]) for index in range(24))
    assert torch.equal(joined(loader.epoch(0))[0], joined(first)[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_epoch_goes_on_where_it_stopped(images, preprocessing, workers):
    loader = training_loader(images, preprocessing, seed=0, **how(batch_size=4, workers=workers))
    whole = list(loader.epoch(2))
    stopped = loader.epoch(2)
    next(stopped)
    stopped.close()
    rest = list(loader.epoch(2, start_step=1))
    assert torch.equal(joined(rest)[0], joined(whole[1:])[0])


def test_incomplete_last_batch_is_left_out_and_a_small_set_is_one_batch(images, preprocessing):
    def sizes(batch_size, **ranks):
        loader = training_loader(
            images, preprocessing, seed=0, **how(batch_size=batch_size, workers=0, **ranks)
        )
        batches = [len(batch.images) for batch in loader.epoch(0)]
        assert len(batches) == loader.steps_per_epoch
        return batches

    assert sizes(7) == [7, 7, 7]
    assert sizes(100) == [24]
    assert sizes(100, rank=1, world_size=4) == [6]
    assert sizes(50, rank=4, world_size=5) == [4]


@pytest.mark.parametrize(
    ("batch_size", "world_size", "message"),
    [
        (0, 1, "the batch size is 0, expected a positive multiple"),
        (10, 4, "the batch size is 10, expected a positive multiple of 4"),
        (32, 32, "24 images for 32 processes"),
    ],
)
def test_batch_size_that_cannot_be_shared_is_an_error(
    images, preprocessing, batch_size, world_size, message
):
    with pytest.raises(DataError, match=message):
        training_loader(
            images, preprocessing, seed=0, **how(batch_size=batch_size, world_size=world_size)
        )


def test_batch_size_below_one_is_an_error(images, preprocessing):
    with pytest.raises(DataError, match="the batch size is 0, expected at least 1"):
        evaluation_loader(images, preprocessing, **how(batch_size=0))


def global_states():
    numpy_state = np.random.get_state()[1]  # noqa: NPY002 -- the global one is meant
    return random.getstate(), numpy_state.tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_left_alone(images, preprocessing, workers):
    before = global_states()
    list(
        training_loader(images, preprocessing, seed=0, **how(batch_size=8, workers=workers)).epoch(
            0
        )
    )
    list(evaluation_loader(images, preprocessing, **how(batch_size=8, workers=workers)))
    assert global_states() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_image_is_named_in_one_line(damaged, preprocessing, workers):
    options = {"batch_size": 3, "workers": workers}
    loader = evaluation_loader(damaged, preprocessing, **how(**options))
    with pytest.raises(
        DataError, match="cannot read this image .*truncated.*--skip-bad-images"
    ) as error:
        list(loader)
    assert str(damaged.root / "a" / "2.jpg") in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="2.jpg: cannot read this image"):
        list(training_loader(damaged, preprocessing, seed=0, **how(**options)).epoch(0))


def test_workers_end_with_an_error(damaged, preprocessing):
    loader = evaluation_loader(damaged, preprocessing, **how(batch_size=3, workers=2))
    before = len(multiprocessing.active_children())
    with pytest.raises(DataError, match="cannot read this image"):
        list(loader)
    assert len(multiprocessing.active_children()) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_second_iteration_at_the_same_time_is_an_error(images, preprocessing, workers):
    loader = evaluation_loader(images, preprocessing, **how(batch_size=3, workers=workers))
    first = iter(loader)
    next(first)
    assert len(list(loader)) == 8
    with pytest.raises(RuntimeError, match="another iteration of this loader has begun"):
        next(first)


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 no image either"])
def test_file_that_is_no_image_is_a_bad_image(damaged, preprocessing, content):
    (damaged.root / "a" / "2.jpg").write_bytes(content)
    loader = evaluation_loader(damaged, preprocessing, **how(batch_size=3, workers=0))
    with pytest.raises(DataError, match="2.jpg: cannot read this image"):
        list(loader)


def test_file_that_has_gone_is_a_bad_image(damaged, preprocessing):
    (damaged.root / "a" / "2.jpg").unlink()
    loader = evaluation_loader(damaged, preprocessing, **how(batch_size=3, workers=0))
    with pytest.raises(DataError, match="2.jpg: cannot read this image .*No such file"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_can_be_skipped_and_are_counted(damaged, preprocessing, workers):
    options = {"batch_size": 3, "workers": workers, "skip_bad_images": True}
    loader = evaluation_loader(damaged, preprocessing, **how(**options))
    assert joined(loader)[2].tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert loader.skipped == ["a/2.jpg"]
    list(loader)
    assert loader.skipped == ["a/2.jpg"]
    training = training_loader(damaged, preprocessing, seed=0, **how(**options | {"batch_size": 8}))
    assert Counter(joined(training.epoch(0))[2].tolist()) == Counter([0, 1, 3, 4, 5, 6, 7])
    assert training.skipped == ["a/2.jpg"]


def test_batch_of_bad_images_alone_is_left_out_but_not_in_training(damaged, preprocessing):
    options = {"batch_size": 1, "workers": 0, "skip_bad_images": True}
    assert len(list(evaluation_loader(damaged, preprocessing, **how(**options)))) == 7
    with pytest.raises(
        DataError, match="a batch has no readable image, the last one tried is a/2.jpg"
    ):
        list(training_loader(damaged, preprocessing, seed=0, **how(**options)).epoch(0))


def test_worker_that_dies_is_an_error_and_the_loader_can_start_again(images, preprocessing):
    loader = training_loader(images, preprocessing, seed=0, **how(batch_size=2, workers=2))
    batches = loader.epoch(0)
    next(batches)
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(DataError, match="that loads images has failed.*--workers") as error:
        list(batches)
    assert "\n" not in str(error.value)
    assert len(list(loader.epoch(0))) == 12


class NoRoom(Decoder):
    def __getitem__(self, task):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


def test_full_shared_memory_is_one_line(images):
    pool = DecodingPool(NoRoom(images.open, None), workers=1, pin_memory=False)
    with pytest.raises(DataError, match=r"RuntimeError: unable to .*\(28\).*/dev/shm") as error:
        list(pool.decode([Task(0, np.arange(1), images.paths[:1])]))
    assert "\n" not in str(error.value)


def test_death_of_a_worker_is_not_raised_in_the_middle_of_something_else(images, preprocessing):
    handler = signal.getsignal(signal.SIGCHLD)
    loader = training_loader(images, preprocessing, seed=0, **how(batch_size=2, workers=1))
    next(loader.epoch(0))
    assert signal.getsignal(signal.SIGCHLD) == handler
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    time.sleep(0.1)


SCRIPT = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from swa_tools.checkpoints import Preprocessing
    from swa_tools.data import PassOptions, open_images, training_loader

    preprocessing = Preprocessing(
        image_size=32, resize=36, crop="center", interpolation="bilinear",
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
    )
    images = open_images(Path(sys.argv[1]))
    options = PassOptions(batch_size=2, device="cpu", workers=2)
    loader = training_loader(images, preprocessing, seed=0, options=options)
    batches = loader.epoch(0)
    next(batches)
""")


def run_script(text, folder, **options):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + text, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
        **options,
    )


def test_signals_to_the_process_group_do_not_reach_the_workers_and_the_program_ends(image_folder):
    text = textwrap.dedent("""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
            os.killpg(0, number)
        print(len(list(batches)))
        batches = loader.epoch(1)  # The program ends while the workers are busy with it.
        next(batches)
    """)
    finished = run_script(text, image_folder / "train")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "11\n", "")


@pytest.mark.slow
def test_workers_start_where_processes_are_spawned(image_folder):
    """As on macOS, where a worker gets pickled copies instead of inheriting memory."""
    text = textwrap.dedent("""
        if __name__ == "__main__":
            import torch.multiprocessing
            torch.multiprocessing.set_start_method("spawn", force=True)
            options = PassOptions(batch_size=8, device="cpu", workers=1)
            again = training_loader(images, preprocessing, seed=0, options=options)
            print(len(list(again.epoch(0))))
    """)
    finished = run_script(text, image_folder / "train")
    assert (finished.returncode, finished.stdout) == (0, "3\n"), finished.stderr


def test_default_number_of_workers_suits_the_machine(monkeypatch):
    cuda = torch.device("cuda")
    for n_cores, local, expected_cuda, expected_cpu in (
        (1, "1", 1, 1),
        (2, "1", 2, 1),
        (16, "1", 16, 4),
        (96, "8", 12, 4),
        (4, "8", 1, 1),
    ):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda _, n=n_cores: set(range(n)), raising=False
        )
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert default_workers(cuda) == expected_cuda
        assert default_workers(CPU) == expected_cpu
