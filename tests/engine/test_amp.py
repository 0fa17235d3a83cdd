"""Precisions: which there are, and the scale of losses in float16."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gatedvision.engine.amp import AmpOptimWrapper, autocast, check_amp, log_grad_norms
from gatedvision.engine.training_state import to_plain


def test_precision_is_checked():
    with pytest.raises(ValueError, match="bf16, fp16 or None, got 'fp8'"):
        check_amp("fp8")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="amp fp16 needs a GPU"):
            AmpOptimWrapper(amp="fp16", optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    with autocast(None):
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32


def test_float16_scales_the_loss_and_leaves_out_steps_that_overflow(monkeypatch):
    # On a CPU, where float16 is no use but the arithmetic of the scale is the same.
    monkeypatch.setattr("gatedvision.engine.amp.check_amp", lambda amp: None)
    monkeypatch.setattr("gatedvision.engine.amp.get_device", lambda: "cpu")
    weight = nn.Parameter(torch.ones(2))

    def wrap() -> AmpOptimWrapper:
        return AmpOptimWrapper(amp="fp16", optimizer=torch.optim.SGD([weight], lr=1.0), clip_grad={"max_norm": 1.0})

    wrapper = wrap()
    scale = wrapper.scaler.get_scale()
    # A gradient of norm 5, clipped to 1 after the scale is taken out.
    wrapper.update_params((weight * torch.tensor([3.0, 4.0])).sum())
    torch.testing.assert_close(weight.data, torch.tensor([0.4, 0.2]))
    wrapper.update_params((weight * float("inf")).sum())
    torch.testing.assert_close(weight.data, torch.tensor([0.4, 0.2]))
    assert wrapper.scaler.get_scale() == scale / 2
    resumed = wrap()
    resumed.load_state_dict(to_plain(wrapper.state_dict()))
    assert resumed.scaler.get_scale() == scale / 2


def test_no_norm_is_lost_or_told_twice_on_a_gpu(monkeypatch):
    """A norm comes a step late there, but before a checkpoint."""
    monkeypatch.setattr("gatedvision.engine.amp.LateNumber", lambda norm: SimpleNamespace(read=lambda: norm.value))
    wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    history = []
    hub = SimpleNamespace(update_scalar=lambda name, value: history.append((name, value)))
    runner = SimpleNamespace(optim_wrapper=wrapper, message_hub=hub)
    lengths = []
    for step in range(1, 6):
        wrapper._grad_norm = SimpleNamespace(is_cuda=True, value=step)
        log_grad_norms(runner)
        if step in (2, 5):
            lengths.append(len(history))
            log_grad_norms(runner, last=True)
            log_grad_norms(runner, last=True)
    assert history == [("train/grad_norm", step) for step in range(1, 6)] and lengths == [1, 4]
