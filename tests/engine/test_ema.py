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


def test_buffers_that_a_module_replaces_and_absent_ones():
    model = nn.Sequential(make_model(), nn.BatchNorm1d(4, track_running_stats=False))
    average = AveragedModel(model, momentum=0.1)
    for level in (1.0, 2.0):
        model[0][1].running_var = torch.full((4,), level)
        average.update_parameters(model)
        assert torch.equal(average.module[0][1].running_var, model[0][1].running_var)
    assert average.module[1].running_var is None


def test_another_model_enters_the_same_average():
    first, second = make_model(), make_model()
    average = AveragedModel(first, momentum=0.5)
    average.update_parameters(first)
    torch.nn.init.ones_(second[0].bias)
    average.update_parameters(second)
    torch.testing.assert_close(average.module[0].bias, (first[0].bias + 1) / 2)
    assert average.state_dict().keys() == {"steps", *(f"module.{name}" for name in first.state_dict())}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gamma": -1}, "gamma must not be negative, got -1"), ({"interval": 2}, "in every iteration")],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        AveragedModel(make_model(), momentum=0.1, **options)
