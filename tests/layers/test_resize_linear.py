"""Linear resampling."""

import torch
import torch.nn.functional as F

from gatedvision.layers.resize_linear import resize_linear


def test_a_map_of_the_right_size_is_itself() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert resize_linear(x, torch.empty(5, 1, 3, 4)) is x and resize_linear(x, x, True) is x


def test_corners() -> None:
    line = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)
    grid = torch.empty(1, 1, 1, 1, 4)
    assert resize_linear(line, grid).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    aligned = resize_linear(line, grid, align_corners=True).flatten()
    torch.testing.assert_close(aligned, torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))
    x = torch.randn(1, 2, 3, 4)
    assert torch.equal(resize_linear(x, torch.empty(1, 1, 5, 7)), F.interpolate(x, (5, 7), mode="bilinear"))
