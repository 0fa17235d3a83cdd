"""The gate: where it starts, what its noise does, budgets, choices from outside, and mistakes."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from gatedvision.layers import MixedScaleGate
from gatedvision.layers.gate_losses import GateLoss
from gatedvision.layers.mixed_scale_gate import all_but_lowest

GRID = (3, 4)


def gate(**options: Any) -> MixedScaleGate:
    torch.manual_seed(0)
    return MixedScaleGate(16, GRID, **options).eval()


def tokens(batch: int = 5, regions: int = 12) -> Tensor:
    return torch.randn(batch, regions, 16, generator=torch.Generator().manual_seed(1))


def test_starts_all_coarse() -> None:
    choice = gate()(tokens(), GRID)
    assert choice.coarse.all() and choice.straight is None and choice.num_fine is None
    assert (choice.probability - 0.95).abs().max() < 0.03 and choice.probability.std() > 1e-4
    assert not gate(initial_logit=-3.0)(tokens(), GRID).coarse.any()


def test_each_region_is_judged_alone_and_by_its_place() -> None:
    network, x = gate(), tokens(1)
    torch.nn.init.normal_(network.pos_embed)
    moved = x.clone()
    moved[0, 3] += torch.arange(16)
    same = network.logits(x, GRID) == network.logits(moved, GRID)
    assert same.sum() == 11 and not same[0, 3]
    alike = network.logits(x[:, :1].expand(-1, 12, -1), GRID)
    assert len(alike.unique()) == 12


def test_noise_makes_regions_fine_as_often_as_the_logit_says() -> None:
    network = gate().train()
    logits = torch.tensor([[-1.0, 0.0, 2.0]]).expand(20000, -1)
    torch.manual_seed(3)
    shares = (network.relax(logits) > 0.5).double().mean(0)
    torch.testing.assert_close(shares, torch.tensor([-1.0, 0.0, 2.0]).sigmoid().double(), rtol=0, atol=0.012)
    torch.testing.assert_close(network.eval().relax(logits), logits.sigmoid())
    steep, quiet = gate(temperature=0.1), gate(noise=0.0).train()
    torch.testing.assert_close(steep.relax(logits), (10 * logits).sigmoid())
    torch.testing.assert_close(quiet.relax(logits), logits.sigmoid())


def test_gradient_passes_straight_through() -> None:
    network = gate(initial_logit=0.0).train()
    choice = network(tokens(), GRID)
    assert choice.straight is not None
    assert torch.equal(choice.straight.detach(), choice.coarse.float()) and 0 < choice.coarse.sum() < 60
    seed = torch.randn(5, 12)
    found = torch.autograd.grad((choice.straight * seed).sum(), list(network.parameters()), retain_graph=True)
    expected = torch.autograd.grad((choice.probability * seed).sum(), list(network.parameters()))
    torch.testing.assert_close(found, expected)
    assert all(x.abs().sum() > 0 for x in found)
    assert network.last.probability is choice.probability and network.last.coarse is choice.coarse
    assert network.last.grid == GRID


def test_with_a_share_the_best_of_a_batch_are_fine_in_training() -> None:
    network = gate(share=0.2, noise=0.0).train()
    choice = network(tokens(), GRID)
    logits = network.logits(tokens(), GRID)
    assert int((~choice.coarse).sum()) == 12 and choice.num_fine is None
    assert logits[~choice.coarse].max() <= logits[choice.coarse].min()
    assert choice.straight is not None and torch.equal(choice.straight.detach(), choice.coarse.float())
    network.eval()
    assert torch.equal(network(tokens(), GRID).coarse, logits > 0)
    assert int((~gate(share=0.2, budget=0.25).train()(tokens(), GRID).coarse).sum()) == 15


def test_with_a_share_logits_learn_what_regions_change_and_the_bias_where_the_border_is() -> None:
    network, truth = gate(share=0.25, noise=0.0).train(), torch.randn(12)
    loss, optimizer = GateLoss(12, 0.25, "gain"), torch.optim.Adam(network.parameters(), lr=0.01)
    for seed in range(300):
        x = torch.randn(16, 12, 16, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        choice = network(x, GRID)
        # Coarse, a region costs the loss what its place and its first channel say.
        costs = 3 * truth + x[..., 0].detach()
        optimizer.zero_grad()
        ((choice.straight * costs).sum() + loss(choice.probability)["auxiliary"]).backward()
        assert x.grad is None, "the backbone learns nothing from it"
        optimizer.step()
    network.eval()
    x = torch.randn(200, 12, 16, generator=torch.Generator().manual_seed(1000))
    costs = 3 * truth + x[..., 0]
    found = network.logits(x, GRID).detach()
    assert torch.corrcoef(torch.stack([found.flatten(), -costs.flatten()]))[0, 1] > 0.95
    assert abs(float((found < 0).double().mean()) - 0.25) < 0.03


def test_detail_tells_regions_apart() -> None:
    network, x, detail = gate(detail=True), tokens(1, 1).expand(1, 12, -1), torch.linspace(-2, 2, 12)[None]
    assert network.detail_embed is not None and not network.detail_embed.any()
    with torch.no_grad():
        network.pos_embed.zero_()
        assert len(network.logits(x, GRID, detail).unique()) == 1
        network.detail_embed.copy_(torch.randn(16))
    assert len(network.logits(x, GRID, detail).unique()) == 12
    assert torch.equal(network(x, GRID, detail).coarse, network.logits(x, GRID, detail) > 0)
    with pytest.raises(ValueError, match=r"a gate with detail=True needs the detail that regions lose, \[B, R\]"):
        network(x, GRID)


def test_nothing_is_learned_in_evaluation_or_by_a_frozen_gate() -> None:
    assert gate()(tokens(), GRID).straight is None
    assert gate().train().requires_grad_(False)(tokens(), GRID).straight is None


@pytest.mark.parametrize(("budget", "num_fine"), [(0.0, 0), (0.25, 3), (0.3, 4), (1.0, 12)])
def test_budget_makes_the_least_coarse_regions_fine(budget: float, num_fine: int) -> None:
    network = gate(budget=budget)
    choice = network(tokens(), GRID)
    assert choice.num_fine == num_fine and torch.equal((~choice.coarse).sum(1), torch.full((5,), num_fine))
    logits = network.logits(tokens(), GRID)
    for scores, coarse in zip(logits, choice.coarse, strict=True):
        if 0 < num_fine < 12:
            assert scores[~coarse].max() < scores[coarse].min()


def test_choices_from_outside() -> None:
    network, x = gate(choice="random", budget=0.5), tokens(200)
    choice = network(x, GRID)
    assert torch.equal((~choice.coarse).sum(1), torch.full((200,), 6))
    # Every region is as likely as any other, and every image draws its own.
    assert (choice.coarse.double().mean(0) - 0.5).abs().max() < 0.15 and len(choice.coarse.unique(dim=0)) > 100
    assert torch.equal(choice.probability, choice.coarse.float())

    network.set_choice("centre", 2 / 12)
    centre = network(x, GRID).coarse.view(-1, *GRID)
    assert not centre[:, 1, 1:3].any() and centre.sum() == 200 * 10
    network.set_choice("fine")
    assert not network(x, GRID).coarse.any() and network(x, GRID).num_fine == 12
    network.set_choice("coarse")
    assert network(x, GRID).coarse.all() and network(x, GRID).num_fine == 0

    network.set_choice(lambda batch, grid, device: torch.arange(12, device=device).expand(batch, -1) >= grid[1])
    choice = network(x, GRID)
    assert not choice.coarse[:, :4].any() and choice.coarse[:, 4:].all() and choice.num_fine is None


def test_ties_go_in_order() -> None:
    assert torch.equal(all_but_lowest(torch.zeros(1, 4), 2), torch.tensor([[False, False, True, True]]))


def test_another_grid_resizes_the_positions() -> None:
    network = gate()
    ramp = torch.arange(4.0).repeat(3)[None, :, None].expand(1, 12, 16)
    network.pos_embed.data.copy_(ramp)
    x = tokens(1, 12 * 4)
    before = network.logits(x, (6, 8))
    network.set_grid((6, 8))
    assert network.pos_embed.shape == (1, 48, 16) and network.grid == (6, 8)
    torch.testing.assert_close(
        network.pos_embed[0, :8, 0].detach(), torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    )
    assert torch.equal(network.logits(x, (6, 8)), before)


def test_last_choice_is_not_copied() -> None:
    network = gate().train()
    network(tokens(), GRID)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.last.probability is None and twin.last.coarse is None


def test_bfloat16_decides_in_float32() -> None:
    network = gate().bfloat16()
    assert network(tokens().bfloat16(), GRID).probability.dtype == torch.float32
    assert gate().double()(tokens().double(), GRID).probability.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choice": "border"}, "choice must be one of gate, random, centre, fine, coarse or a function, got 'border'"),
        ({"choice": "random"}, "choice 'random' needs a budget"),
        ({"choice": "fine", "budget": 0.5}, "budget 0.5 has no use with choice 'fine'"),
        ({"budget": 1.5}, "budget is the share of fine regions, 0 to 1, got 1.5"),
        ({"temperature": 0.0}, "temperature must be above 0 and noise at least 0, got 0.0 and 1.0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"share": 1.0}, "share of fine regions must lie between 0 and 1, got 1.0"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gate(**options)


def test_a_policy_that_returns_something_else() -> None:
    with pytest.raises(ValueError, match=r"must be bool of shape \(5, 12\), got torch.float32 of \(5, 3\)"):
        gate(choice=lambda batch, grid, device: torch.zeros(batch, 3))(tokens(), GRID)
