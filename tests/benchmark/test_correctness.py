import pytest
import torch
from torch import nn

from gatedvision.benchmark.correctness import check_outputs, fill_constants, settle_norms


def test_the_largest_error_counts():
    right = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    assert check_outputs("it", [right[0] * 1.01, right[1]], right, 0.02) == pytest.approx(0.01, rel=1e-4)
    with pytest.raises(ValueError, match="not timed, it is wrong: relative error 0.01, limit 0.005"):
        check_outputs("it", [right[0], right[1] * 1.01], right, 0.005)
    with pytest.raises(ValueError, match="relative error nan"):
        check_outputs("it", [right[0] * float("nan")], right[:1], 0.005)
    with pytest.raises(ValueError, match="no floating tensors"):
        check_outputs("it", [], [], 0.005)


def test_what_starts_constant_near_zero_is_drawn():
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.bias)
    model = nn.ModuleList([layer, nn.LayerNorm(4)])
    scale = nn.Parameter(torch.full((4,), 1e-6))
    model[1].register_parameter("scale", scale)
    weight = layer.weight.detach().clone()
    fill_constants(model)
    assert layer.bias.detach().std() > 0.02 and scale.detach().std() > 0.02
    assert layer.weight.equal(weight) and (model[1].weight == 1).all()


def test_batch_norms_take_the_statistics_of_the_images():
    images = 5 + 3 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    settle_norms(model, [images])
    assert not any(module.training for module in model.modules())
    y = model(images)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
