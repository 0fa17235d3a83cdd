import pytest
import torch
from torch import Tensor, nn

from gatedvision.benchmark.steps import inference_step, tensors_of, training_step

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Scores(nn.Module):
    """A convolution, whose scores are given in several forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.conv = form, nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> object:
        scores = self.conv(x)
        if self.form == "pooled":
            return scores.mean((2, 3))
        return {"out": scores, "rest": [scores.argmax(1), scores.mean()]} if self.form == "nested" else scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["pooled", "dense", "nested"])
def test_a_training_step_moves_the_weights_and_lowers_the_loss(form, dtype):
    torch.manual_seed(0)
    model = Scores(form)
    before = model.conv.weight.detach().clone()
    step = training_step(model, [IMAGES], dtype)
    for _ in range(3):
        step()
    assert model.training and model.conv.weight.dtype == torch.float32
    # AdamW moves every weight by about its rate.
    moved = (model.conv.weight - before).abs()
    assert (moved > 1e-4).all() and (moved < 5e-4).all()


def test_inference_is_in_the_dtype_and_without_gradient():
    model = Scores("nested")
    output = inference_step(model, [IMAGES], torch.bfloat16)()
    scores, mean = tensors_of(output)
    assert scores.dtype == torch.bfloat16 and scores.is_inference() and not model.training
    assert scores.shape == (3, 5, 8, 8) and mean.ndim == 0
