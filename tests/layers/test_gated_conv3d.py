"""Gated convolution of videos, beside the published one."""

import torch
import torch.nn.functional as F
from torch import nn

from gatedvision.layers import GatedConv3d
from tests.golden.golden import draw_input, find_records

(RECORD,) = (record for record in find_records("inpainting") if record.name == "related_ops")


def test_record() -> None:
    layer = GatedConv3d(4, 6, stride=(1, 2, 2), normalize=False, dtype=torch.float64)
    names = {"featureConv": "conv_value", "gatingConv": "conv_gate"}
    weights = RECORD.weights()
    layer.load_state_dict(
        {
            f"{own}.{leaf}": weights[f"gated3d.{name}.{leaf}"]
            for name, own in names.items()
            for leaf in ("weight", "bias")
        }
    )
    y = layer(draw_input(1, 4, 5, 10, 12))
    torch.testing.assert_close(y, RECORD.arrays()["gated3d.y"], rtol=0, atol=1e-9)


def test_spectral_norms_and_norm_of_the_product() -> None:
    torch.manual_seed(0)
    layer = (
        GatedConv3d(3, 4, (1, 3, 3), dilation=(1, 2, 2), activation="relu", norm_layer=nn.BatchNorm3d).double().eval()
    )
    x = torch.randn(2, 3, 4, 6, 5, dtype=torch.float64)
    nn.init.uniform_(layer.norm.bias)
    expected = layer.norm(F.relu(layer.conv_value(x)) * layer.conv_gate(x).sigmoid())
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape == (2, 4, 4, 6, 5)
    for conv in (layer.conv_value, layer.conv_gate):
        for _ in range(50):
            conv.train().weight  # noqa: B018  each access is a step of power iteration
        torch.testing.assert_close(torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item(), 1.0, rtol=1e-3, atol=0)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    layer = GatedConv3d(3, 4)
    layer(torch.randn(1, 3, 3, 4, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
