import pytest
import torch
from torch import Tensor

from gatedvision.tasks._dense_inference import DenseInference, predict_in_windows, resize


def draw_image(height: int = 20, width: int = 31) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def by_pixel(image: Tensor) -> Tensor:
    """Logits of two classes that do not depend on what is around a pixel."""
    return torch.cat([image.sum(1, keepdim=True), image[:, :1] - image[:, 2:]], dim=1)


@pytest.mark.parametrize(("crop", "stride"), [(8, 5), (8, 8), (20, 7), (31, 31), (64, 10), (7, 1)])
def test_windows_of_a_local_function_are_the_function(crop, stride):
    image = draw_image()
    torch.testing.assert_close(predict_in_windows(by_pixel, image, crop, stride), by_pixel(image))


def test_overlaps_are_averaged_and_windows_end_at_the_edge():
    calls = []

    def number(window: Tensor) -> Tensor:
        calls.append(tuple(window.shape[2:]))
        return torch.full((1, 1, *window.shape[2:]), float(len(calls)))

    # Windows begin at 0, 4 and 5 of 9 columns, and at 0 and 1 of 5 rows.
    result = predict_in_windows(number, torch.zeros(1, 3, 5, 9), crop=4, stride=4)
    assert calls == [(4, 4)] * 6
    assert result[0, 0, 0].tolist() == [1, 1, 1, 1, 2, 2.5, 2.5, 2.5, 3]
    assert result[0, 0, 1].tolist() == [2.5, 2.5, 2.5, 2.5, 3.5, 4, 4, 4, 4.5]


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, (20, 31)),
        ({"short_side": 10}, (10, 16)),
        ({"short_side": 40, "long_side": 50}, (32, 50)),
        ({"scales": (0.5,)}, (10, 16)),
        ({"short_side": 10, "scales": (2.0,)}, (20, 31)),
        ({"short_side": 1, "scales": (0.01,)}, (1, 1)),
    ],
)
def test_the_size_that_the_network_sees(options, seen):
    sizes = []

    def watch(image: Tensor) -> Tensor:
        sizes.append(tuple(image.shape[2:]))
        return by_pixel(image)

    scores, are_logits = DenseInference(**options)(watch, draw_image(), (9, 7))
    assert sizes == [seen]
    assert scores.shape == (1, 2, 9, 7) and are_logits


def test_several_views_average_probabilities():
    image = draw_image()
    scores, are_logits = DenseInference(scales=(1.0, 2.0), flip=True)(by_pixel, image, (20, 31))
    larger = resize(by_pixel(resize(image, (40, 62))), (20, 31)).softmax(1)
    # What depends on single pixels does not see that they are mirrored.
    torch.testing.assert_close(scores, (by_pixel(image).softmax(1) + larger) / 2)
    assert not are_logits


def test_a_mirrored_view_is_mirrored_back():
    def left_half(image: Tensor) -> Tensor:
        logits = torch.zeros(1, 2, *image.shape[2:])
        logits[..., : image.shape[3] // 2] = torch.tensor([5.0, -5.0])[:, None, None]
        return logits

    scores, _ = DenseInference(flip=True)(left_half, draw_image(4, 8), (4, 8))
    torch.testing.assert_close(scores, scores.flip(-1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop must be at least one pixel, got 0"),
        ({"crop": 10, "stride": 11}, "stride=11 leaves gaps between windows of crop=10 pixels"),
        ({"stride": 5}, "stride=5 leaves gaps between windows of crop=None"),
        ({"long_side": 5}, "long_side=5 limits short_side, which is missing"),
        ({"scales": ()}, r"scales must hold positive factors, got \(\)"),
        ({"scales": (1.0, 0.0)}, "positive factors"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        DenseInference(**options)
