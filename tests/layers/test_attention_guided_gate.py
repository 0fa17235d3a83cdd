"""Attention-guided gates for depth completion."""

import pytest
import torch
import torch.nn.functional as F

from gatedvision.layers import AttentionGuidedGatedConv2d, AttentionGuidedSkip


def test_gate_step_by_step() -> None:
    torch.manual_seed(0)
    layer = AttentionGuidedGatedConv2d(3, 2, 5, (4, 3), dtype=torch.float64)
    depth = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    image = torch.randn(2, 2, 8, 6, dtype=torch.float64)

    def convolve(x: torch.Tensor, conv: torch.nn.Conv2d, stride: int) -> torch.Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), conv.weight, conv.bias, stride)

    def normalise(x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-5).sqrt()

    value = F.leaky_relu(normalise(convolve(depth, layer.value[0][0], 1)), 0.2)
    value = F.leaky_relu(normalise(convolve(value, layer.value[2][0], 2)), 0.2)
    gate = convolve(torch.cat([depth, image], 1), layer.conv_gate, 2)
    first, _, second = layer.attention
    for sample in range(2):
        for channel in range(5):
            hidden = (first.weight @ gate[sample, channel].flatten() + first.bias).clamp_min(0)
            weights = torch.sigmoid(second.weight @ hidden + second.bias).view(4, 3)
            expected = value[sample, channel] * weights
            torch.testing.assert_close(layer(depth, image)[sample, channel], expected)


@pytest.mark.parametrize("size", [(7, 5), (16, 12), (1, 3)], ids=str)
def test_other_sizes(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = AttentionGuidedGatedConv2d(3, 2, 5, (4, 3)).eval()
    y = layer(torch.randn(2, 3, *size), torch.randn(2, 2, *size))
    assert y.shape == (2, 5, -(-size[0] // 2), -(-size[1] // 2)) and y.isfinite().all()


def test_skip_weighs_the_image() -> None:
    torch.manual_seed(0)
    layer = AttentionGuidedSkip(4, 3, dtype=torch.float64)
    image, depth = torch.randn(2, 4, 6, 5, dtype=torch.float64), torch.randn(2, 3, 6, 5, dtype=torch.float64)
    joined = F.relu(torch.cat([layer.image(image), layer.depth(depth)], 1))
    mixed = torch.einsum("oi,bihw->bohw", layer.weight[0].weight[:, :, 0, 0], joined)
    variance, mean = torch.var_mean(mixed, (0, 2, 3), keepdim=True, correction=0)
    weight = 1 / (1 + torch.exp(-(mixed - mean) / (variance + 1e-5).sqrt()))
    torch.testing.assert_close(layer(image, depth), image * weight)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    gated, skip = AttentionGuidedGatedConv2d(3, 2, 5, (4, 3)), AttentionGuidedSkip(2, 5)
    depth, image = torch.randn(2, 3, 8, 6), torch.randn(2, 2, 8, 6)
    y = gated(depth, image)
    skip(image, F.interpolate(y, (8, 6))).square().sum().backward()
    parameters = [*gated.parameters(), *skip.parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
