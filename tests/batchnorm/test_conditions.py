import dataclasses

import pytest

from swa_tools.batchnorm import BnOptions, conditions_of
from swa_tools.checkpoints import BnInfo, CheckpointMetadata, DataInfo, Preprocessing, ViewInfo

PREPROCESSING = Preprocessing(
    image_size=128,
    resize=146,
    crop="center",
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
# Trained smaller than it is tested, with crops of its own.
VIEW = ViewInfo(size=96, crop="random-resized", min_area=0.6, flip=0.5, interpolation="bilinear")


def metadata_of(*, batch_size=128):
    return CheckpointMetadata(
        kind="average",
        preprocessing=PREPROCESSING,
        view=VIEW,
        data=DataInfo(n_samples=1000, batch_size=batch_size, seed=7),
        bn=BnInfo(state="stale"),
        swa_tools="0",
    )


def test_the_default_is_what_the_run_trained_on():
    conditions = conditions_of(BnOptions(), metadata_of(), PREPROCESSING)
    assert (conditions.view, conditions.batch_size, conditions.seed) == (VIEW, 128, 7)
    assert conditions.notices == ()


def test_what_the_user_says_goes_first():
    options = BnOptions(view="evaluation", batch_size=100, seed=1)
    conditions = conditions_of(options, metadata_of(), PREPROCESSING)
    assert (conditions.view.crop, conditions.view.size) == ("evaluation", 128)
    assert (conditions.batch_size, conditions.seed, conditions.notices) == (100, 1, ())


@pytest.mark.parametrize(
    "metadata", [None, dataclasses.replace(metadata_of(), view=None, data=None)]
)
def test_of_other_peoples_weights_the_view_is_assumed_and_said(metadata):
    conditions = conditions_of(BnOptions(), metadata, PREPROCESSING)
    assert conditions.view == ViewInfo(
        size=128, crop="random-resized", min_area=0.08, flip=0.5, interpolation="bicubic"
    )
    assert (conditions.batch_size, conditions.seed) == (256, 0)
    (notice,) = conditions.notices
    assert "8% of the image" in notice
    assert "--view evaluation" in notice


def test_a_batch_has_at_least_64_images_unless_asked_for_and_then_warned_of():
    assert conditions_of(BnOptions(), metadata_of(batch_size=4), PREPROCESSING).batch_size == 64
    asked = conditions_of(BnOptions(batch_size=8), metadata_of(), PREPROCESSING)
    assert asked.batch_size == 8
    assert "at least 64" in asked.notices[0]
