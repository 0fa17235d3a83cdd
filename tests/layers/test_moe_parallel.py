"""Experts spread over processes, which are threads here: the layer computes what it does with all experts at hand."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gatedvision.layers import moe, moe_parallel
from gatedvision.layers.moe import ExpertMlp, MoeMlp, SoftMoeMlp
from gatedvision.layers.moe_parallel import ExpertExchange
from gatedvision.layers.moe_routers import ExpertChoiceRouter, SoftRouter, TopKRouter

DOUBLE = {"dtype": torch.float64}
ROUTERS: dict[str, Callable[[], Any]] = {
    "top_k": lambda: TopKRouter(8, 4, capacity_factor=0.75, noise_std=0.0, group_images=2, **DOUBLE),
    "ensemble": lambda: TopKRouter(8, 4, 1, noise_std=0.0, group_images=2, num_members=2, load_weight=0.0, **DOUBLE),
    "expert_choice": lambda: ExpertChoiceRouter(8, 4, noise_std=0.0, group_images=2, **DOUBLE),
    "soft": lambda: SoftRouter(8, 4, 3, **DOUBLE),
}


def build_layer(name: str) -> nn.Module:
    torch.manual_seed(0)
    layer = SoftMoeMlp if name == "soft" else MoeMlp
    return layer(ROUTERS[name](), ExpertMlp(8, 12, 4, identical=False, **DOUBLE))


class Threads:
    """All-to-all between threads, by the name of the receiver; autograd sees through it."""

    def __init__(self, size: int) -> None:
        self.barrier = Barrier(size)
        self.sent: list[Any] = [None] * size

    def all_to_all(self, x: Tensor, output_splits: None, input_splits: None, group: str) -> Tensor:
        rank, size = int(group), len(self.sent)
        assert x.is_contiguous()
        self.sent[rank] = x.chunk(size)
        self.barrier.wait(timeout=30)
        received = torch.cat([parts[rank] for parts in self.sent])
        self.barrier.wait(timeout=30)
        return received


def share_of(layer: nn.Module, rank: int, size: int) -> nn.Module:
    """Copy a layer with one share of its experts."""
    own: Any = copy.deepcopy(layer)
    for parameter in own.experts.parameters():
        parameter.data = parameter.data.chunk(size)[rank].clone()
    ExpertExchange(str(rank), size).attach(own.experts)
    # Copies, such as a moving average, exchange as well.
    return copy.deepcopy(own)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", ROUTERS)
def test_shares_compute_what_all_experts_do(name, size, monkeypatch):
    whole = build_layer(name)
    shares = [share_of(whole, rank, size) for rank in range(size)]
    monkeypatch.setattr(moe_parallel, "all_to_all_single_autograd", Threads(size).all_to_all)
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(4 * size, 5, 8, generator=generator, **DOUBLE) for _ in range(2))
    x.requires_grad_()

    with ThreadPoolExecutor(size) as pool:
        y = torch.cat(list(pool.map(lambda layer, part: layer(part), shares, x.chunk(size))))
    (y * weight).sum().backward()
    grad_x, x.grad = x.grad, None
    expected = whole(x)
    (expected * weight).sum().backward()

    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(grad_x, x.grad, **close)
    for key, parameter in whole.named_parameters():
        gradients = [share.get_parameter(key).grad for share in shares]
        # A share of the experts has worked for all, and a router for its images only.
        gradient = torch.cat(gradients) if key.startswith("experts.") else sum(gradients)
        torch.testing.assert_close(gradient, parameter.grad, **close, msg=key)


@pytest.mark.parametrize("name", ROUTERS)
def test_exchanges_are_of_equal_parts_in_evaluation(name, monkeypatch):
    monkeypatch.setattr(moe, "MIN_SLOTS", 0)
    whole = build_layer(name).eval()
    shares = [share_of(whole, rank, 2) for rank in range(2)]
    monkeypatch.setattr(moe_parallel, "all_to_all_single_autograd", Threads(2).all_to_all)
    x = torch.randn(8, 5, 8, generator=torch.Generator().manual_seed(1), **DOUBLE)
    # Of each thread.
    evaluate = torch.no_grad()(lambda layer, part: layer(part))
    with ThreadPoolExecutor(2) as pool:
        y = torch.cat(list(pool.map(evaluate, shares, x.chunk(2))))
    torch.testing.assert_close(y, whole(x), rtol=0, atol=1e-12)


def test_an_infinite_capacity_is_refused():
    layer: Any = build_layer("top_k")
    ExpertExchange("0", 1).attach(layer.experts)
    layer.router.set_capacity(float("inf"))
    with pytest.raises(ValueError, match="need a finite capacity_factor"):
        layer(torch.zeros(2, 5, 8, **DOUBLE))
