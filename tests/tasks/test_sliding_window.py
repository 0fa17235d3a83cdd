import pytest
import torch
from torch import Tensor

from gatedvision.tasks._sliding_window import SlidingWindow


def by_pixel(windows: Tensor) -> Tensor:
    """Logits that do not depend on what is around a pixel."""
    return torch.cat([windows.sum(1, keepdim=True), windows[:, :1] ** 2], 1)


def draw_image(*sides: int) -> Tensor:
    return torch.randn(2, *sides, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("sides", "size", "overlap"),
    [
        ((20, 31), (8, 8), 0.5),
        ((20, 31), (7, 31), 0.0),
        ((5, 9), (8, 8), 0.25),
        ((12, 9, 17), (8, 4, 8), 0.5),
        ((12, 9, 7), (8, 9, 8), 0.9),
        ((1, 1, 1), (4, 4, 4), 0.5),
    ],
)
def test_windows_of_a_local_function_are_the_function(sides, size, overlap, blend):
    image = draw_image(*sides)
    shapes = set()

    def watch(windows: Tensor) -> Tensor:
        shapes.add(tuple(windows.shape[2:]))
        assert len(windows) <= 3
        return by_pixel(windows)

    scores = SlidingWindow(size, overlap, blend, batch_size=3)(watch, image)
    torch.testing.assert_close(scores, by_pixel(image[None])[0])
    # Every window is full, whatever the image's size.
    assert shapes == {tuple(size)}


def test_half_precision_is_a_thousandth_off_and_whole_images_need_no_windows():
    image = draw_image(20, 31)
    expected = by_pixel(image[None])[0]
    scores = SlidingWindow((8, 8), dtype="float16")(by_pixel, image)
    assert scores.dtype == torch.float16
    torch.testing.assert_close(scores.float(), expected, rtol=3e-3, atol=3e-3)
    torch.testing.assert_close(SlidingWindow()(by_pixel, image), expected)


@pytest.mark.parametrize("size", [(6, 6), (5, 6), (4, 5, 6)])
def test_the_centre_of_a_window_weighs_most(size):
    weights = SlidingWindow(size)._weights()
    assert weights.shape == size and weights.max() == 1 and weights.min() >= 1e-3
    for axis in range(len(size)):
        torch.testing.assert_close(weights, weights.flip(axis))
    # A Gaussian with an eighth of the side as its deviation, one pixel off the centre of five.
    if size[0] == 5:
        row = weights[:, 2]
        assert (row[1] / row[2]).item() == pytest.approx(torch.tensor(-0.5 * (8 / 5) ** 2).exp().item())


def test_overlaps_are_blended_by_the_weights():
    calls = []

    def number(windows: Tensor) -> Tensor:
        calls.append(len(windows))
        return torch.full((1, 1, *windows.shape[2:]), float(len(calls)))

    image = torch.zeros(1, 4, 6)
    # Windows begin at columns 0 and 2.
    scores = SlidingWindow((4, 4), 0.5)(number, image)
    weights = SlidingWindow((4, 4))._weights()[0]
    expected = [1, 1]
    expected += [float((weights[2 + n] + 2 * weights[n]) / (weights[2 + n] + weights[n])) for n in range(2)]
    assert scores[0, 0].tolist() == pytest.approx([*expected, 2, 2])
    assert SlidingWindow((4, 4), 0.5, "constant")(lambda x: by_pixel(x)[:, :1], image).unique().tolist() == [0]


def test_a_small_image_is_padded_with_its_least_value():
    seen = []
    SlidingWindow((6, 6))(lambda x: seen.append(x) or x, torch.full((1, 3, 4), 7.0).index_fill(2, torch.tensor(0), -2))
    window = seen[0][0, 0]
    assert window[1:4, 1:5].tolist() == [[-2, 7, 7, 7]] * 3
    assert (window[0] == -2).all() and (window[4:] == -2).all() and (window[:, 5] == -2).all()


def test_sums_lie_where_they_are_wanted(monkeypatch):
    # "meta" stands in for the GPU: what it computes has no values, and may not be mixed with what is on the CPU.
    image = torch.zeros(1, 8, 12, device="meta")
    assert SlidingWindow((8, 8), accumulate_on="device")(lambda x: x, image).device.type == "meta"
    moved = []
    original = Tensor.to

    def to(self: Tensor, *args, **kwargs) -> Tensor:
        moved.append(args[0])
        return (
            original(torch.zeros(self.shape), *args, **kwargs) if self.device.type == "meta" else original(self, *args)
        )

    monkeypatch.setattr(Tensor, "to", to)
    assert SlidingWindow((8, 8))(lambda x: x, image).device.type == "cpu"
    assert torch.device("cpu") in moved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (8,)}, r"window size must be two or three sides of at least one pixel, got \(8,\)"),
        ({"size": (8, 0)}, r"at least one pixel, got \(8, 0\)"),
        ({"overlap": 1.0}, r"overlap must lie in \[0, 1\), got 1.0"),
        ({"batch_size": 0}, "batch_size must be at least one window, got 0"),
        ({"blend": "hann"}, "blend must be gaussian or constant, got 'hann'"),
        ({"accumulate_on": "cuda"}, "accumulate_on must be cpu or device, got 'cuda'"),
        ({"dtype": "bfloat16"}, "dtype must be float32 or float16, got 'bfloat16'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(**options)


def test_another_number_of_axes_is_named():
    with pytest.raises(ValueError, match=r"windows of \(8, 8\) do not fit an image \(1, 9, 9, 9\), channels first"):
        SlidingWindow((8, 8))(by_pixel, torch.zeros(1, 9, 9, 9))
