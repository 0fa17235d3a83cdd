"""Routers against golden records: decisions equal, gates and losses to 1e-9."""

import copy
import pickle

import pytest
import torch
from torch import Tensor

from gatedvision.layers import moe_routers
from gatedvision.layers.moe_routers import ExpertChoiceRouter, SoftRouter, TopKRouter
from gatedvision.layers.moe_routing import Routing
from gatedvision_kernels import wide_linear
from gatedvision_kernels.moe_slots import take_turns
from tests.golden.golden import draw_input
from tests.models.vmoe_records import RECORDS, assert_equal, recorded_weights, slots_in_group

EXACT = 1e-9
# The published code averages counts in float32.
LOSS_TOLERANCE = {"importance": EXACT, "load": EXACT, "gshard": 1e-6}


def cut(x: Tensor, num_groups: int) -> Tensor:
    return x.unflatten(0, (num_groups, -1))


@pytest.mark.parametrize("name", ["router_topk_e8", "router_topk_e4_round"])
def test_top_k_decisions(name: str) -> None:
    record = RECORDS[name]
    facts, arrays = record.facts["kwargs"], record.arrays()
    logits = draw_input(*record.facts["input_shape"])
    assert_equal(logits.softmax(-1), arrays["gates"], EXACT, "gates")
    for config, options in facts["configs"].items():
        router = TopKRouter(
            4,
            facts["num_experts"],
            options["num_selected_experts"],
            options["capacity_factor"],
            priority="batch" if options["batch_priority"] else "vanilla",
            group_images=1,
            rounding=facts["capacity_ceil_or_round"],
            multiple_of=facts["capacity_multiple_of"] or 1,
        ).eval()
        routing, losses = router.route(logits, every_loss=True)
        assert routing.capacity == options["capacity"], config
        groups = len(logits)
        expected = {key: arrays[f"{config}/{key}"] for key in ("expert_index", "kept", "slot", "gate")}
        assert torch.equal(cut(routing.experts, groups), expected["expert_index"].long()), config
        assert torch.equal(cut(routing.slot_of_choice >= 0, groups), expected["kept"]), config
        slots = torch.where(expected["kept"], expected["slot"].long(), -1)
        assert torch.equal(cut(slots_in_group(routing, groups), groups), slots), config
        priority = arrays["gates"].amax(-1) if options["batch_priority"] else None
        turns = take_turns(
            expected["expert_index"].long(), facts["num_experts"], torch.ones(logits.shape[:2]).bool(), priority
        )
        assert torch.equal(turns, expected["slot"].long()), config
        assert_equal(cut(routing.gates, groups), expected["gate"], EXACT, config)
        assert_consistent(routing)
        for loss in ("importance", "gshard"):
            assert_equal(losses[loss], arrays[f"{loss}_loss"], LOSS_TOLERANCE[loss], loss)
        assert "load" not in losses


def assert_consistent(routing: Routing) -> None:
    """Check that the two maps are each other's inverse."""
    kept = routing.slot_of_choice.flatten() >= 0
    choices = torch.arange(len(kept))[kept]
    assert torch.equal(routing.choice_of_slot[routing.slot_of_choice.flatten()[kept]], choices)
    assert int((routing.choice_of_slot >= 0).sum()) == len(choices)


@pytest.mark.parametrize("k", [1, 2])
def test_losses_under_noise(k: int) -> None:
    record = RECORDS["router_losses_e8"]
    arrays, shape = record.arrays(), record.facts["input_shape"]
    logits, noise = draw_input(*shape).requires_grad_(), draw_input(*shape, seed=1) / 8
    router = TopKRouter(4, 8, k, group_images=1)
    routing, losses = router.route(logits, noise, every_loss=True)
    assert torch.equal(cut(routing.experts, 2), arrays[f"k{k}/expert_index"].long())
    assert_equal(routing.gates, arrays["gates_noisy"].flatten(0, 1).gather(1, routing.experts), EXACT, "gates")
    for name, loss in losses.items():
        assert_equal(loss, arrays[f"k{k}/{name}_loss"], LOSS_TOLERANCE[name], name)
    total = sum(router.loss_weights[name] * loss for name, loss in losses.items())
    assert isinstance(total, Tensor)
    assert_equal(total, arrays[f"k{k}/auxiliary_loss"], EXACT, "auxiliary")
    total.mean().backward()
    assert_equal(logits.grad, arrays[f"k{k}/grad_logits"], EXACT, "gradient")
    assert set(router.route(logits, noise)[1]) == {"importance", "load"}


def test_expert_choice() -> None:
    record = RECORDS["router_expert_choice_e8"]
    arrays, logits = record.arrays(), draw_input(*record.facts["input_shape"])
    for config, options in record.facts["kwargs"]["configs"].items():
        router = ExpertChoiceRouter(4, 8, options["capacity_factor"])
        routing, tokens = router.route(logits)
        assert routing.capacity == options["capacity"]
        assert torch.equal(tokens, arrays[f"{config}/token_index"].long())
        kept = routing.slot_of_choice >= 0
        assert_equal(cut(routing.gates * kept, 2), arrays[f"{config}/combine"], EXACT, config)
        assert torch.equal(cut(kept.sum(1), 2), arrays[f"{config}/num_experts_per_token"].long())
        assert_consistent(routing)


def test_experts_take_no_more_than_all_tokens() -> None:
    routing, tokens = ExpertChoiceRouter(4, 2, capacity_factor=5.0).route(draw_input(1, 6, 2))
    assert routing.capacity == 6 and tokens.shape == (1, 2, 6)


def test_soft() -> None:
    record = RECORDS["router_soft_e4_slots3"]
    arrays, x = record.arrays(), draw_input(*record.facts["input_shape"])
    router = SoftRouter(24, 4, 3, dtype=torch.float64)
    router.load_state_dict(recorded_weights(record))
    dispatch, combine = router(x)
    assert_equal(dispatch, arrays["dispatch"].flatten(2), EXACT, "dispatch")
    assert_equal(combine, arrays["combine"].flatten(2), EXACT, "combine")
    slots = torch.einsum("bms,bmc->bsc", dispatch, x).unflatten(1, (4, 3)).transpose(0, 1).flatten(1, 2)
    assert_equal(slots, arrays["slot_inputs"], EXACT, "slot_inputs")


def test_ensemble() -> None:
    record = RECORDS["router_ensemble_m2_e8_k1"]
    arrays, x = record.arrays(), draw_input(*record.facts["input_shape"])
    router = TopKRouter(32, 8, 1, 1.5, num_members=2, group_images=1, dtype=torch.float64).eval()
    kernel = recorded_weights(record)["dense/kernel"]
    router.load_state_dict({"weight": kernel.flatten(1).T})
    routing, losses = router(x, every_loss=True)
    assert routing.capacity == 8
    slots = torch.full((80, 8), -1).scatter(1, routing.experts, slots_in_group(routing, 2))
    assert torch.equal(cut(slots, 2), arrays["slot"].long())
    combine = torch.zeros(80, 8, dtype=torch.float64).scatter(1, routing.experts, routing.gates)
    assert_equal(cut(combine * (slots >= 0), 2), arrays["combine"], EXACT, "combine")
    for name, loss in losses.items():
        assert_equal(loss, arrays[f"{name}_loss"], LOSS_TOLERANCE[name], name)
    assert_equal(0.005 * losses["importance"], arrays["auxiliary_loss"], EXACT, "auxiliary")


@pytest.mark.parametrize("priority", ["vanilla", "batch"])
def test_places_without_tokens_change_nothing(priority: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 7, 4, dtype=torch.float64)
    router = TopKRouter(3, 4, 2, 0.5, priority=priority, group_images=3, multiple_of=1).train()
    noise = torch.randn_like(logits)
    routing, losses = router.route(logits, noise, every_loss=True)
    assert_consistent(routing)
    # The second group as one of its own, with the capacity of the first.
    second, own = router.route(logits[3:], noise[3:], every_loss=True)
    assert routing.capacity == 6 and second.capacity == 4
    for name, loss in own.items():
        torch.testing.assert_close(losses[name][1:], loss)
    kept = routing.slot_of_choice[21:] >= 0
    assert kept.shape == (14, 2) and not kept[second.slot_of_choice >= 0].logical_not().any()
    assert 24 >= int(kept.sum()) > int((second.slot_of_choice >= 0).sum())


def test_noise_is_of_training_only_and_routing_is_wide() -> None:
    torch.manual_seed(0)
    router = TopKRouter(8, 4, 2, dtype=torch.bfloat16)
    x = torch.randn(2, 5, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert router(x)[0].gates.dtype == torch.float32
        assert router.double()(x.double())[0].gates.dtype == torch.float64
    router.eval()
    assert torch.equal(router(x)[0].gates, router(x)[0].gates)
    router.train()
    assert not torch.equal(router(x)[0].gates, router(x)[0].gates)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_narrow_logits_are_as_exact_as_wide_ones(
    backend: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(x: Tensor, weight: Tensor) -> Tensor:
        seen.append(x.dtype)
        return wide_linear(x, weight, backend=backend)

    monkeypatch.setattr(moe_routers, "wide_linear", spy)
    torch.manual_seed(0)
    router = TopKRouter(64, 8, 2, dtype=torch.bfloat16).to(device)
    x = torch.randn(2, 5, 64, device=device).bfloat16()
    logits = router.logits(x)
    exact = x.double() @ router.weight.double().T
    assert logits.dtype == torch.float32 and seen == [torch.bfloat16]
    torch.testing.assert_close(logits.double(), exact, rtol=1e-6, atol=1e-6)
    # Where one of both is in float32 the product is torch's, under autocast, too.
    with torch.autocast(device.type, torch.bfloat16):
        torch.testing.assert_close(router.logits(x.float()).double(), exact, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(router.float().logits(x).double(), exact, rtol=1e-6, atol=1e-6)
        assert router.logits(x.float()).dtype == torch.float32
    assert seen == [torch.bfloat16]


def test_balance_over_the_batch() -> None:
    logits = draw_input(4, 6, 3)
    router = TopKRouter(2, 3, 1, group_images=1, balance="batch", gshard_weight=0.01)
    together = TopKRouter(2, 3, 1, group_images=4, gshard_weight=0.01)
    noise = draw_input(4, 6, 3, seed=1)
    whole, one_group = router.route(logits, noise)[1], together.route(logits, noise)[1]
    assert set(whole) == set(one_group) == {"importance", "load", "gshard"}
    for name, loss in whole.items():
        torch.testing.assert_close(loss, one_group[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_selected": 5}, "num_selected must be 1 to 4, the experts, got 5"),
        ({"num_selected": 0}, "num_selected must be 1 to 4, the experts, got 0"),
        ({"num_selected": 3, "num_members": 2, "load_weight": 0}, "1 to 2, the experts of each of 2 members, got 3"),
        ({"capacity_factor": 0.0}, "capacity_factor must be above 0, got 0.0: no expert had a slot"),
        ({"capacity_factor": float("nan")}, "capacity_factor must be above 0, got nan"),
        ({"eval_capacity_factor": 0.0}, "capacity_factor must be above 0, got 0.0"),
        ({"priority": "random"}, "priority must be one of vanilla, batch, got 'random'"),
        ({"rounding": "floor"}, "rounding must be one of ceil, round, got 'floor'"),
        ({"group_images": 0}, "must be at least 1, got 4, 0, 4 and 1"),
        ({"num_members": 3}, "4 experts cannot be shared by 3 members equally"),
        ({"noise_std": -1.0}, "noise_std must be at least 0, got -1.0"),
        ({"num_members": 2, "num_selected": 1}, "the load loss does not work with 2 experts a member"),
        ({"balance": "world"}, "balance must be 'group' or 'batch', got 'world'"),
    ],
)
def test_bad_routers_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopKRouter(8, 4, **options)


def test_load_loss_of_two_experts_is_refused() -> None:
    with pytest.raises(ValueError, match="load_weight 0.005; set it to 0 and gshard_weight to 0.01"):
        TopKRouter(8, 2, 1)
    TopKRouter(8, 2, 1, load_weight=0.0, gshard_weight=0.01)


@pytest.mark.parametrize("members", [1, 2])
def test_without_buffers_every_choice_has_a_slot(members: int) -> None:
    torch.manual_seed(0)
    router = TopKRouter(8, 6, 2, float("inf"), group_images=2, num_members=members).eval()
    x = torch.randn(5, 6, 8)
    routing, _ = router(x)
    assert torch.equal(routing.slot_of_choice.flatten()[routing.choice_of_slot], torch.arange(60))
    experts = routing.experts.flatten()[routing.choice_of_slot]
    assert torch.equal(experts, experts.sort().values)
    assert torch.equal(routing.ends, experts.bincount(minlength=6).cumsum(0).to(torch.int32))
    # The same gates and experts as with buffers.
    router.set_capacity(6.0)
    buffered, _ = router(x)
    assert torch.equal(routing.experts, buffered.experts) and torch.equal(routing.gates, buffered.gates)
    assert buffered.ends is None


def test_experts_that_choose_have_a_capacity() -> None:
    with pytest.raises(ValueError, match="capacity_factor must be finite where experts choose tokens, got inf"):
        ExpertChoiceRouter(8, 4, float("inf"))


def test_capacity_without_a_slot_is_named() -> None:
    router = TopKRouter(8, 4, 1, 0.1, rounding="round", multiple_of=1).eval()
    with pytest.raises(ValueError, match="capacity_factor 0.1 leaves no slot to an expert: 5 choices among 4 experts"):
        router(torch.randn(1, 5, 8))
    with pytest.raises(ValueError, match="mode must be one of both, train, eval, got 'test'"):
        router.set_capacity(1.0, "test")
    with pytest.raises(ValueError, match="at least one slot an expert, got 0 slots of 4 experts"):
        SoftRouter(8, 4, 0)


def test_routers_are_copied_and_pickled() -> None:
    router = TopKRouter(8, 4)
    assert torch.equal(copy.deepcopy(router).weight, pickle.loads(pickle.dumps(router)).weight)
