import math

import numpy as np
import pytest
import torch

from gatedvision.data import RandomPatch
from gatedvision.data.patches import crop

SIDES = [(20, 31), (12, 17, 9)]


def draw(sides: tuple[int, ...], organ: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """An image that numbers its pixels, and labels with two organs of a few pixels."""
    image = torch.arange(math.prod(sides), dtype=torch.float32).view(1, *sides)
    labels = torch.zeros(sides, dtype=torch.uint8)
    if organ:
        labels[(3,) * len(sides)] = 1
        labels[(-1,) * len(sides)] = 2
    return image, labels


@pytest.mark.parametrize("sides", SIDES)
def test_patches_are_windows_of_the_image(sides):
    image, labels = draw(sides)
    labels[:] = (image[0] % 251).byte()
    torch.manual_seed(0)
    size = (6, 7, 8)[: len(sides)]
    starts = set()
    for _ in range(50):
        patch, patch_labels = RandomPatch(size, foreground=0)(image, labels)
        assert patch.shape == (1, *size)
        place = [int(n) for n in np.unravel_index(int(patch.flatten()[0]), sides)]
        starts.add(tuple(place))
        window = tuple(slice(n, n + length) for n, length in zip(place, size, strict=True))
        assert torch.equal(patch[0], image[0][window]) and torch.equal(patch_labels, labels[window])
    # Anywhere, and up to the edges.
    assert len(starts) > 25


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("turned", [False, True])
def test_the_wanted_share_of_patches_has_foreground(sides, turned):
    image, labels = draw(sides)
    options = {"rotation": 0.0, "scale": (0.9, 0.9)} if turned else {}
    torch.manual_seed(0)
    size = (5,) * len(sides)
    cut = RandomPatch(size, foreground=1.0, **options)
    found = [set(cut(image, labels)[1].unique().tolist()) for _ in range(200)]
    assert all(each & {1, 2} for each in found)
    # The classes take turns, and the organ's place in the patch differs.
    assert 60 < sum(1 in each for each in found) < 140
    places = {cut(image, labels)[1].flatten().argmax().item() for _ in range(50)}
    assert len(places) > 10
    rare = [bool(RandomPatch(size, foreground=0.0)(image, labels)[1].any()) for _ in range(200)]
    assert sum(rare) < 80
    # An image without an organ has patches, too.
    assert cut(*draw(sides, organ=False))[1].unique().tolist() == [0]


@pytest.mark.parametrize("sides", SIDES)
def test_turned_and_enlarged_patches_keep_their_foreground(sides):
    image, labels = torch.zeros(1, *sides), torch.zeros(sides, dtype=torch.uint8)
    labels[tuple(slice(0, 2) for _ in sides)] = 1
    torch.manual_seed(0)
    cut = RandomPatch((7,) * len(sides), foreground=1.0, rotation=45, scale=(1.5, 2.5))
    assert all((cut(image, labels)[1] == 1).any() for _ in range(100))


@pytest.mark.parametrize("options", [{}, {"rotation": 10, "scale": (0.9, 1.1)}])
def test_what_lies_outside_is_dark_and_ignored(options):
    image, labels = torch.full((2, 4, 30), 5.0), torch.ones(4, 30, dtype=torch.uint8)
    image[0, 0, 0] = -3
    torch.manual_seed(0)
    patch, patch_labels = RandomPatch((12, 10), **options)(image, labels)
    assert patch.shape == (2, 12, 10) and set(patch_labels.unique().tolist()) == {1, 255}
    assert (patch[:, 0] == -3).all() and (patch_labels[:2] == 255).all() and (patch_labels[-2:] == 255).all()
    assert patch[:, 5, 5].tolist() == [5, 5] and (patch_labels == 1).sum() < 12 * 6


@pytest.mark.parametrize("sides", SIDES)
def test_turned_patches_show_the_image_turned(sides):
    # Of a plane, linear interpolation is exact.
    axes = torch.meshgrid(*[torch.arange(float(side)) for side in sides], indexing="ij")
    image = torch.stack(axes)
    labels = torch.zeros(sides, dtype=torch.uint8)
    torch.manual_seed(3)
    size = (5,) * len(sides)
    cut = RandomPatch(size, foreground=0, rotation=30, scale=(2.0, 2.0))
    for _ in range(5):
        patch, patch_labels = cut(image, labels)
        if (patch_labels == 255).any():
            continue
        steps = [patch.diff(dim=axis + 1).flatten(1).mean(1) for axis in range(len(sides))]
        # Twice as large: half a pixel a step; turned in the first plane only.
        torch.testing.assert_close(torch.stack([step.norm() for step in steps]), torch.full((len(sides),), 0.5))
        assert abs(steps[0] @ steps[1]) < 1e-4
        angle = math.degrees(math.atan2(steps[0][1], steps[0][0]))
        assert 0.1 < abs(angle) <= 30
        if len(sides) == 3:
            torch.testing.assert_close(steps[2], torch.tensor([0.0, 0.0, 0.5]), atol=1e-5, rtol=0)


def test_mirrored_patches_keep_image_and_labels_together():
    image, labels = draw((9, 9), organ=False)
    labels[:] = (image[0] % 200).byte()
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        patch, patch_labels = RandomPatch((9, 9), flip=(0.5, 0.0))(image, labels)
        assert torch.equal((patch[0] % 200).byte(), patch_labels)
        seen.add(patch[0, 0, 0].item())
    assert seen == {0, 72}
    assert RandomPatch((9, 9), flip=1.0)(image, labels)[0][0, 0, 0] == 80


def test_the_seed_decides_and_one_slice_is_enough():
    image, labels = draw((12, 17, 1), organ=False)
    cut = RandomPatch((8, 8, 4), rotation=15, scale=(0.7, 1.3), flip=0.5)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(cut(image, labels))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    # A volume of one slice is that slice, and nothing around it.
    inside = (results[0][1] < 255).any(0).any(0)
    assert inside.sum() <= 2


def test_crop_reaches_beyond_all_edges():
    x = torch.arange(6).view(2, 3)
    assert crop(x, [-1, 1], [3, 4], 9).tolist() == [[9, 9, 9, 9], [1, 2, 9, 9], [4, 5, 9, 9]]
    assert crop(x, [0, 0], [2, 3], 9).data_ptr() != x.data_ptr()
    assert crop(x, [5, 0], [1, 1], 9).tolist() == crop(x, [-4, 0], [1, 1], 9).tolist() == [[9]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (8,)}, r"size must be two or three sides of at least one pixel, got \(8,\)"),
        ({"size": (8, 0)}, "at least one pixel"),
        ({"foreground": 1.5}, r"foreground must lie in \[0, 1\], got 1.5"),
        ({"flip": (0.5,)}, r"flip=\(0.5,\) needs one chance, or one for each"),
        ({"flip": -1}, r"flip must lie in \[0, 1\], got -1"),
        ({"rotation": 200}, r"rotation must lie in 0\.\.180 degrees, got 200"),
        ({"scale": (1.2, 0.8)}, r"scale must be two positive factors that do not fall, got \(1.2, 0.8\)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RandomPatch(**{"size": (8, 8), **options})


def test_bad_images_are_named():
    with pytest.raises(ValueError, match=r"a patch of \(8, 8, 8\) does not fit an image \(1, 20, 31\), channels first"):
        RandomPatch((8, 8, 8))(*draw((20, 31)))
    with pytest.raises(ValueError, match=r"labels \(5, 31\) do not fit the image \(1, 20, 31\)"):
        RandomPatch((8, 8))(draw((20, 31))[0], torch.zeros(5, 31))
