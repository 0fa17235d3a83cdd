"""Balance over several processes, and where it is perfect."""

import pytest
import torch

from gatedvision.layers.moe_losses import squared_variation, sum_over_batch
from tests.golden.golden import draw_input


def test_balance_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes' averaged gradients are those of one process with both halves of the batch."""
    halves = [draw_input(2, 6, 3, seed=seed).requires_grad_() for seed in (0, 1)]
    sums = [half.sum(1).sum(0, keepdim=True).detach() for half in halves]
    expected = squared_variation(sum(half.sum(1).sum(0, keepdim=True) for half in halves))
    gradients = torch.autograd.grad(expected.sum(), halves)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    for rank, half in enumerate(halves):
        monkeypatch.setattr("torch.distributed.all_reduce", lambda x, rank=rank: x.add_(sums[1 - rank]))
        loss = squared_variation(sum_over_batch(half.sum(1)))
        torch.testing.assert_close(loss, expected)
        (gradient,) = torch.autograd.grad(loss.sum(), half)
        torch.testing.assert_close(gradient / 2, gradients[rank])


def test_losses_of_equal_experts_have_a_gradient() -> None:
    x = torch.ones(3, requires_grad=True)
    squared_variation(x).backward()
    assert torch.equal(x.grad, torch.zeros(3))
