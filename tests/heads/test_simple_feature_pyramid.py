import pytest
import torch
from torch import nn

from gatedvision.heads import SimpleFeaturePyramid


@pytest.mark.parametrize("size", [(8, 12), (5, 3), (1, 1)])
def test_levels_have_the_strides_of_a_pyramid(size):
    pyramid = SimpleFeaturePyramid(16, dim=8)
    levels = pyramid([torch.randn(2, 4, *size), torch.randn(2, 16, *size)])
    height, width = size
    sizes = [(4 * height, 4 * width), (2 * height, 2 * width), size, (-(-height // 2), -(-width // 2))]
    assert [tuple(level.shape) for level in levels] == [(2, 8, *size) for size in sizes]


def test_levels_are_made_as_in_the_paper():
    torch.manual_seed(0)
    pyramid = SimpleFeaturePyramid(16, dim=8)
    kinds = [[type(layer) for layer in level] for level in pyramid.levels]
    projections = [nn.Conv2d, kinds[2][1]] * 2
    assert kinds[0][:2] + kinds[0][3:] == [nn.ConvTranspose2d, kinds[2][1], nn.ConvTranspose2d, *projections]
    assert kinds[0][2] is nn.GELU
    assert kinds[1] == [nn.ConvTranspose2d, *projections]
    assert kinds[2] == projections
    assert kinds[3] == [nn.MaxPool2d, *projections]
    # Each doubling halves the channels.
    assert [layer.out_channels for layer in pyramid.levels[0] if isinstance(layer, nn.ConvTranspose2d)] == [8, 4]
    x = torch.randn(1, 16, 4, 4)
    coarsest = pyramid.levels[3][1:](nn.functional.max_pool2d(x, 2))
    torch.testing.assert_close(pyramid([x])[3], coarsest)
    # The last norm leaves every pixel with mean 0 over the channels.
    assert all(level.mean(dim=1).abs().max() < 1e-5 for level in pyramid([x]))


def test_every_parameter_gets_a_gradient():
    pyramid = SimpleFeaturePyramid(8, dim=4, scales=(2.0, 0.25))
    sum(level.square().sum() for level in pyramid([torch.randn(1, 8, 8, 8)])).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": (3.0,)}, "powers of two, got 3.0"),
        ({"scales": (0.0,)}, "powers of two, got 0.0"),
        ({"in_dim": 18, "scales": (4.0,)}, "got 18 channels and a scale of 4.0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**{"in_dim": 16, **options})
