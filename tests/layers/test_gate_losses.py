import pytest
import torch

from gatedvision.layers.gate_losses import KINDS, GateLoss


def add_noise(logits: torch.Tensor, seed: int) -> torch.Tensor:
    """Soft choices of gates with the noise of training."""
    u = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)).clamp(1e-6, 1 - 1e-6)
    return (logits + u.logit()).sigmoid()


@pytest.mark.parametrize("kind", ["generalized", "batch_shaping", "mean_rate"])
@pytest.mark.parametrize("target", [0.25, 0.7])
def test_gates_that_only_obey_it_come_to_the_target(kind, target):
    """Gates that are free in each of 128 images, all coarse at the start."""
    torch.manual_seed(0)
    loss = GateLoss(9, target, kind)
    logits = (3 + 0.1 * torch.randn(128, 9)).requires_grad_()
    optimizer = torch.optim.Adam([logits, *loss.parameters()], lr=0.1)
    for step in range(200):
        optimizer.zero_grad()
        loss(add_noise(logits, step))["auxiliary"].backward()
        optimizer.step()
    with torch.no_grad():
        if kind == "mean_rate":
            share = torch.stack([1 - add_noise(logits, 1000 + step).mean(0) for step in range(20)]).mean(0)
        else:
            share = (logits < 0).double().mean(0)
    assert abs(float(share.mean()) - target) < 0.05
    if kind == "batch_shaping":
        assert float((share - target).abs().max()) < 0.1, "every region follows the same prior"


@pytest.mark.parametrize("start", [3.0, -1.0])
@pytest.mark.parametrize("target", [0.1, 0.25, 0.7])
def test_a_border_that_all_regions_share_comes_to_the_target(target, start):
    torch.manual_seed(0)
    loss = GateLoss(9, target, "gain")
    assert not list(loss.parameters())
    scores, border = torch.randn(128, 9), torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.Adam([border], lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        loss((scores + border).sigmoid())["auxiliary"].backward()
        optimizer.step()
    assert abs(float((scores + border < 0).double().mean()) - target) < 0.02


def test_every_kind_is_tested_above():
    assert set(KINDS) == {"generalized", "batch_shaping", "mean_rate", "gain"}


@pytest.mark.parametrize("kind", ["generalized", "batch_shaping"])
@pytest.mark.parametrize("start", [12.0, -12.0])
def test_gates_come_back_from_where_they_are_sure(kind, start):
    """All regions coarse or fine beyond doubt: priors that clip such values would leave them there."""
    torch.manual_seed(0)
    loss = GateLoss(4, 0.4, kind)
    logits = (start + 0.1 * torch.randn(64, 4)).requires_grad_()
    optimizer = torch.optim.Adam([logits, *loss.parameters()], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        loss(logits.sigmoid())["auxiliary"].backward()
        optimizer.step()
    assert abs(float((logits < 0).double().mean()) - 0.4) < 0.1


def test_the_target_counts_fine_regions():
    """With K = 4 fine tokens in a region, the tokens of a target are N (1 + 3 target)."""
    for target in (0.1, 0.5):
        coarse = torch.ones(1000, 10)
        coarse[: int(1000 * target)] = 0.0
        tokens = (coarse + 4 * (1 - coarse)).sum(1).mean()
        assert float(tokens) == pytest.approx(10 * (1 + 3 * target))
        right, wrong = (GateLoss(10, share, "mean_rate")(coarse)["auxiliary"] for share in (target, 1 - target))
        assert float(right) < 1e-10 and (target == 0.5 or float(wrong) > 1)
        shaped = [float(GateLoss(10, share, "batch_shaping")(coarse)["auxiliary"]) for share in (target, 1 - target)]
        assert target == 0.5 or shaped[0] < 0.5 * shaped[1]
        hyperprior = GateLoss(10, target).hyperprior
        assert hyperprior.b / (hyperprior.a + hyperprior.b) == pytest.approx(target)


def test_terms_weight_and_precision():
    loss = GateLoss(4, 0.3, weight=2.0)
    coarse = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    terms = loss(coarse)
    assert set(terms) == {"auxiliary", "gate_prior", "gate_hyperprior", "gate_temperature"}
    parts = terms["gate_prior"] + terms["gate_hyperprior"] + 0.1 * terms["gate_temperature"]
    torch.testing.assert_close(terms["auxiliary"], 2 * parts)
    assert loss(coarse.bfloat16())["auxiliary"].dtype == torch.float32
    assert not list(GateLoss(4, 0.3, "mean_rate").parameters())
    assert "kind='generalized', target=0.3, weight=2" in repr(loss)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "l0"}, "must be one of generalized, batch_shaping, mean_rate, gain, got 'l0'"),
        ({"target": 1.0}, "target, the share of fine regions, must lie between 0 and 1, got 1.0"),
        ({"weight": -1.0}, "weight of the gate loss must be at least 0, got -1.0"),
        ({"concentration": 0.0}, "concentration must be above 0 and finite, got 0.0"),
        ({"temperature": 0.0}, "temperature of a prior must be above 0 and finite, got 0.0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GateLoss(4, **options)


def test_another_number_of_regions():
    loss = GateLoss(4, 0.3)
    loss.set_num_regions(9)
    assert loss(torch.rand(8, 9))["auxiliary"].isfinite()
    torch.testing.assert_close(loss.shaping.mean_logit.sigmoid(), torch.full((9,), 0.7), rtol=0, atol=0.01)
    with pytest.raises(
        ValueError, match="priors for 9 regions, and the images have 4: build the model for their img_size"
    ):
        loss(torch.rand(8, 4))
