"""What is counted for the floor of a model: products by weights with their maps, attention without, depthwise apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedvision.benchmark.model_floor import count_model_work, model_floor
from gatedvision.benchmark.roofline import Peaks, Work
from gatedvision.benchmark.sources import count_batch_macs, create_model


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.dwconv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.fc = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.dwconv(self.stem(x))).flatten(2).transpose(1, 2)
        return self.fc((x @ x.transpose(1, 2)) @ x)


def test_works_of_a_small_model() -> None:
    model = Small()
    works = count_model_work(model, [torch.empty(2, 3, 16, 12)], torch.bfloat16)
    pixels, images = 2 * 4 * 3, 2 * 3 * 16 * 12
    assert works == [
        Work(2 * (images + 8 * 3 * 16 + 8 + pixels * 8), pixels * 8 * 3 * 16, 0),
        Work(2 * (pixels * 8 + 8 * 9 + 8 + pixels * 8), 0, pixels * 8 * 9),
        Work(0, pixels * 12 * 8, 0),
        Work(0, pixels * 12 * 8, 0),
        Work(2 * (pixels * 8 + 8 * 5 + pixels * 5), pixels * 8 * 5, 0),
    ]
    # It stays where and as it was.
    assert all(p.device.type == "cpu" and p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["vig_t", "hornet_tiny_gf", "moganet_xtiny", "resnet18", "vmoe_s32_last2_e8"])
def test_multiply_adds_are_those_of_the_model(name: str) -> None:
    inputs = [torch.empty(2, 3, 224, 224)]
    works = count_model_work(create_model(name), inputs, torch.bfloat16)
    assert sum(work.products + work.depthwise for work in works) == count_batch_macs(create_model(name), inputs)


def test_floor_is_a_sum_and_training_takes_three_times_as_much() -> None:
    works = [Work(4 * 10**9, 1, 0), Work(0, 2 * 10**9, 0), Work(0, 0, 10**9)]
    peaks = Peaks(memory=4.0, products=200.0, depthwise=50.0)
    assert model_floor(works, peaks, "inference") == pytest.approx(1 + 0.01 + 0.02)
    assert model_floor(works, peaks, "training") == pytest.approx(3 * (1 + 0.01 + 0.02))
