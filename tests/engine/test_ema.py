"""The moving average of the weights against its formula."""

import pytest
import torch
from torch import nn

from gatedvision.engine.ema import AveragedModel


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(("momentum", "gamma"), [(0.1, 0), (0.1, 4)])
def test_average_of_every_parameter(momentum, gamma):
    model = make_model()
    average = AveragedModel(model, momentum=momentum, gamma=gamma)
    expected = {}
    for step in range(60):
        for parameter in model.parameters():
            parameter.data.normal_()
        average.update_parameters(model)
        share = 1.0 if step == 0 else max(momentum, gamma / (gamma + step)) if gamma else momentum
        for name, parameter in model.named_parameters():
            expected[name] = parameter.data.double() * share + (expected[name] * (1 - share) if step else 0)
    for name, value in average.module.named_parameters():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert average.steps == 60


def test_buffers_are_copied():
    model = make_model()
    average = AveragedModel(model, momentum=0.1)
    model(torch.randn(8, 3))
    average.update_parameters(model)
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": -1}, "gamma must not be negative, got -1"), ({"interval": 2}, "in every iteration")],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        AveragedModel(make_model(), momentum=0.1, **options)
