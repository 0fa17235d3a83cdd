"""Policies of augmentation where they are strongest: posterize keeps 0 bits there, which Pillow 13 refuses."""

import pickle
import random

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image

from gatedvision.data import create_transform

SIZE = 24
LEVELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def draw(transform, count: int = 200) -> list[torch.Tensor]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return [transform(Image.fromarray(LEVELS)) for _ in range(count)]


@pytest.mark.parametrize("magnitude", [0, 3, 5, 8, 10])
def test_posterize_keeps_the_first_bits_or_none(magnitude):
    policy = create_transform(SIZE, is_training=True, auto_augment=f"rand-m{magnitude}-inc1-p1").transforms[2]
    [posterize] = [operation for operation in policy.ops if operation.name == "PosterizeIncreasing"]
    bits = {0: 4, 3: 3, 5: 2, 8: 1, 10: 0}[magnitude]
    kept = np.asarray(posterize(Image.fromarray(LEVELS)))
    np.testing.assert_array_equal(kept, LEVELS & (0xFF00 >> bits & 0xFF))


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "rand-m0-mstd2", "v0", "augmix-m10-mstd2"])
def test_policies_run_at_their_strongest(policy):
    transform = create_transform(SIZE, is_training=True, auto_augment=policy)
    images = draw(transform)
    assert all(image.shape == (3, SIZE, SIZE) and image.isfinite().all() for image in images)
    # Worker processes that are not forked receive the transform pickled.
    torch.testing.assert_close(draw(pickle.loads(pickle.dumps(transform))), images, rtol=0, atol=0)


def test_transforms_in_three_parts():
    crop, augment, normalise = create_transform(SIZE, is_training=True, auto_augment="rand-m10-inc1", separate=True)
    whole = create_transform(SIZE, is_training=True, auto_augment="rand-m10-inc1")
    parts = draw(lambda image: normalise(augment(crop(image))))
    torch.testing.assert_close(parts, draw(whole), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"is_training": True, "auto_augment": "rand-m5-mstd0.5", "re_prob": 0.25},
        {"is_training": True, "auto_augment": "original", "interpolation": "bicubic"},
        {"is_training": True, "color_jitter_prob": 0.5, "gaussian_blur_prob": 0.5},
        {"is_training": False, "crop_pct": 0.875},
    ],
)
def test_everything_else_is_what_timm_draws(options):
    expected = draw(timm.data.create_transform(SIZE, **options), count=50)
    torch.testing.assert_close(draw(create_transform(SIZE, **options), count=50), expected, rtol=0, atol=0)
