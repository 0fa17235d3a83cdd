"""The layer of experts: golden records with all gradients, batches of any size, and what it keeps."""

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import gatedvision_kernels
from gatedvision.layers import moe, moe_routers
from gatedvision.layers.moe import ExpertMlp, MoeMlp, SoftMoeMlp
from gatedvision.layers.moe_routers import ExpertChoiceRouter, SoftRouter, TopKRouter
from gatedvision_kernels import bias_gelu
from tests.golden.golden import Record, draw_input
from tests.models.vmoe_records import RECORDS, assert_equal, recorded_weights, slots_in_group

EXACT = 1e-9
DOUBLE = {"dtype": torch.float64}


def build_layer(record: Record) -> tuple[nn.Module, dict[str, str]]:
    """Return the filled layer and its name for each published one."""
    facts = record.facts["kwargs"]
    options, dispatcher = facts["router"], facts["router"].get("dispatcher", {})
    images = facts["group_size"] // record.facts["input_shape"][1]
    experts = ExpertMlp(32, facts["mlp_dim"], facts["num_experts"], **DOUBLE)
    own = {
        f"Mlp/Dense_{i}/{a}": f"experts.fc{i + 1}.{b}" for i in (0, 1) for a, b in (("kernel", "weight"), ("bias",) * 2)
    }
    if "Soft" in options.get("name", ""):
        layer: nn.Module = SoftMoeMlp(SoftRouter(32, 4, options["num_slots"], **DOUBLE), experts)
        own |= {"Router/mu": "router.mu", "Router/scale": "router.scale"}
    elif "ItemsPerExpert" in options.get("name", ""):
        router = ExpertChoiceRouter(32, 4, dispatcher["capacity_factor"], group_images=images, **DOUBLE)
        layer, own = MoeMlp(router, experts), own | {"Router/dense/kernel": "router.weight"}
    else:
        router = TopKRouter(
            32,
            4,
            options["num_selected_experts"],
            dispatcher["capacity_factor"],
            priority="batch" if dispatcher["batch_priority"] else "vanilla",
            group_images=images,
            **DOUBLE,
        )
        layer, own = MoeMlp(router, experts), own | {"Router/dense/kernel": "router.weight"}
    weights = recorded_weights(record)
    layer.load_state_dict({own[name]: x.T if "dense" in name else x for name, x in weights.items()})
    return layer.eval(), own


@pytest.mark.parametrize("name", [name for name in RECORDS if name.startswith("layer_")])
def test_record(name: str) -> None:
    record = RECORDS[name]
    arrays = record.arrays()
    layer, own = build_layer(record)
    layer.keep_routing = True
    x = draw_input(*record.facts["input_shape"]).requires_grad_()
    y = layer(x)
    assert_equal(y, arrays["output"], EXACT, "output")
    losses, routing = layer.last.losses, layer.last.routing
    parameters = dict(layer.named_parameters())
    if "grad_of_mean_importance/Router.dense.kernel" in arrays and losses:
        weight = parameters["router.weight"]
        (gradient,) = torch.autograd.grad(losses["importance"].mean(), weight, retain_graph=True)
        assert_equal(gradient.T, arrays["grad_of_mean_importance/Router.dense.kernel"], EXACT, "importance")
        assert_equal(losses["importance"], arrays["metric/importance_loss"], EXACT, "importance")
        assert_equal(losses["gshard"], arrays["metric/gshard_loss"], 1e-6, "gshard")
        assert_equal(0.005 * losses["importance"], arrays["metric/auxiliary_loss"], EXACT, "auxiliary")
        groups, _, k = arrays["route/kept"].shape
        kept = arrays["route/kept"].reshape(-1, k)
        assert routing.capacity == record.facts["kwargs"]["capacity"]
        assert torch.equal(routing.slot_of_choice >= 0, kept)
        assert torch.equal(routing.experts, arrays["route/expert_index"].reshape(-1, k).long())
        slots = torch.where(kept, arrays["route/slot"].reshape(-1, k).long(), -1)
        assert torch.equal(slots_in_group(routing, groups), slots)

    (y * draw_input(*y.shape, seed=1)).sum().backward()
    assert_equal(x.grad, arrays["grad_input"], EXACT, "grad_input")
    checked = 0
    for key, expected in arrays.items():
        kind, _, published = key.partition("/")
        if kind not in ("grad", "gradnorm"):
            continue
        name = published.replace(".", "/")
        gradient = parameters[own[name]].grad
        gradient = gradient.T if "dense" in name else gradient
        if kind == "gradnorm":
            actual = gradient.flatten(1).norm(dim=1)
        elif expected.shape != gradient.shape:
            actual = gradient[:, :8, :8]
        else:
            actual = gradient
        assert_equal(actual, expected, EXACT, key)
        checked += 1
    assert checked >= 7


def build(priority: str = "vanilla", capacity_factor: float = 1.05, **options) -> MoeMlp:
    torch.manual_seed(0)
    router = TopKRouter(8, 4, 2, capacity_factor, priority=priority, **options)
    return MoeMlp(router, ExpertMlp(8, 16, 4, identical=False)).eval()


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("priority", ["vanilla", "batch"])
def test_one_image_equals_itself_in_a_batch(priority: str, members: int) -> None:
    options = {"num_members": members, "load_weight": 0.0}
    layer, x = build(priority, 4.0, group_images=3, **options), torch.randn(7 * members, 5, 8)
    together = layer(x)
    assert together.shape == x.shape
    alone = torch.cat([layer(image) for image in x.split(members)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("batch", [0, 1, 2, 8, 9, 11])
def test_every_batch_size(batch: int) -> None:
    layer, x = build(capacity_factor=0.5).train(), torch.randn(batch, 5, 8, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.shape == x.shape and y.isfinite().all() and x.grad.isfinite().all()


def test_choices_of_one_member_stay_with_its_experts() -> None:
    layer = build(capacity_factor=2.0, num_members=2, load_weight=0.0)
    layer.keep_routing = True
    layer(torch.randn(4, 5, 8))
    member = torch.arange(20) % 2
    assert torch.equal(layer.last.routing.experts // 2, member[:, None].expand(20, 2))


def test_experts_see_no_more_than_the_capacity() -> None:
    seen = []
    layer = build()
    layer.experts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    for factor in (1.0, 0.5, 0.25):
        layer.router.set_capacity(factor)
        layer(torch.randn(8, 16, 8))
    assert seen == [(4, 64, 8), (4, 32, 8), (4, 16, 8)]


@pytest.mark.parametrize("members", [1, 2])
def test_experts_see_no_more_than_all_tokens(members: int) -> None:
    seen = []
    layer = build(capacity_factor=100.0, num_members=members, load_weight=0.0)
    layer.experts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    x = torch.randn(8, 16, 8)
    y = layer(x)
    assert seen == [(4, 8 * 16 // members, 8)]
    layer.router.set_capacity(float("inf"))
    torch.testing.assert_close(layer(x), y)


def test_compiled_layers_follow_the_capacity() -> None:
    torch._dynamo.reset()
    layer = build()
    compiled: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for factor in (1.0, 0.25, 0.5, 1.0):
        layer.router.set_capacity(factor)
        assert layer.router.capacity_factor == factor
        x = torch.randn(8, 16, 8)
        torch.testing.assert_close(compiled(x), layer(x))


def test_capacity_of_training_and_of_evaluation() -> None:
    layer = build(eval_capacity_factor=4.0)
    assert layer.router.capacity(32) == 32 and layer.train().router.capacity(32) == 12
    layer.router.set_capacity(0.5, "eval")
    assert layer.router.capacity(32) == 12 and layer.eval().router.capacity(32) == 4


def test_dropped_tokens_get_nothing() -> None:
    layer = build(capacity_factor=0.1, multiple_of=1)
    layer.keep_routing = True
    y = layer(torch.randn(2, 20, 8))
    kept = (layer.last.routing.slot_of_choice >= 0).any(1)
    assert 0 < int(kept.sum()) <= 8
    assert torch.equal(y.flatten(0, 1).abs().sum(1) > 0, kept)


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["f64", "f32"])
def test_without_buffers_it_is_the_layer_that_drops_nothing(dtype: torch.dtype, limit: float, members: int) -> None:
    layer = build(group_images=3, num_members=members, load_weight=0.0).to(dtype)
    x = torch.randn(7 * members, 5, 8, dtype=dtype, requires_grad=True)
    found = []
    for factor in (members * 4.0, float("inf")):
        layer.router.set_capacity(factor)
        seen = []
        hook = layer.experts.fc1.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        y = layer(x)
        hook.remove()
        gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
        found.append([y, *gradients])
    # Two choices of each token, and no more.
    assert seen == [(7 * members * 5 * 2, 8)]
    torch.testing.assert_close(found[1], found[0], rtol=limit, atol=limit)


@pytest.mark.parametrize("batch", [0, 1, 9])
def test_without_buffers_every_batch_size(batch: int) -> None:
    layer, x = build(capacity_factor=float("inf")).train(), torch.randn(batch, 5, 8, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.shape == x.shape and y.isfinite().all() and x.grad.isfinite().all()
    assert set(layer.last.losses) == {"importance", "load"}


def test_without_buffers_under_autocast() -> None:
    layer, x = build(capacity_factor=float("inf")), torch.randn(2, 5, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16 and (y - expected).std() < 0.02 * expected.std()


PADDED: dict[str, Callable[..., Any]] = {
    "vanilla": partial(TopKRouter, num_selected=2),
    "batch": partial(TopKRouter, num_selected=2, priority="batch"),
    "ensemble": partial(TopKRouter, num_selected=2, num_members=2, load_weight=0.0),
    "expert_choice": ExpertChoiceRouter,
}


def expert_input(layer: MoeMlp, x: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
    """Return what the layer makes of tokens, and the shape of what its experts got."""
    seen = []
    with layer.experts.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape)):
        y = layer(x)
    return y, *seen


@pytest.mark.parametrize("capacity", [0.3, 1.05, 4.0])
@pytest.mark.parametrize("name", PADDED)
def test_leaving_out_empty_slots_changes_nothing(name: str, capacity: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "MIN_SLOTS", 0)
    torch.manual_seed(0)
    router = PADDED[name](8, 4, capacity_factor=capacity, group_images=3, **DOUBLE)
    layer = MoeMlp(router, ExpertMlp(8, 16, 4, identical=False, **DOUBLE)).eval()
    layer.keep_routing = True
    # The last group is of one image.
    x = torch.randn(7 * router.num_members, 5, 8, **DOUBLE)
    expected, padded = expert_input(layer, x)
    routing = layer.last.routing
    with torch.no_grad():
        y, left = expert_input(layer, x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    slots, taken = len(routing.choice_of_slot), int((routing.choice_of_slot >= 0).sum())
    assert padded == (4, slots // 4, 8)
    # Experts that choose leave none empty, but in the last group.
    assert left == ((taken, 8) if taken < slots else padded) and (taken < slots or name == "expert_choice")
    # What is kept is the routing with all slots.
    torch.testing.assert_close(layer.last.routing, routing, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("batch", [0, 1, 9])
def test_leaving_out_empty_slots_of_every_batch_size(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moe, "MIN_SLOTS", 0)
    layer, x = build(capacity_factor=2.0), torch.randn(batch, 5, 8)
    y = layer(x)
    layer.experts.takes_ends = False
    torch.testing.assert_close(y, layer(x))


def test_where_empty_slots_are_left_out() -> None:
    # 256 tokens with two choices among four experts have 136 slots each, and 32 tokens a few.
    layer, x = build(), torch.randn(8, 32, 8)
    assert expert_input(layer, x)[1] == (4, 136, 8)
    with torch.no_grad():
        y, shape = expert_input(layer, x)
        assert len(shape) == 2 and shape[0] < 4 * 136
        assert expert_input(layer, x[:1])[1] == (4, 20, 8)
        # Half of these few are empty.
        assert len(expert_input(build(capacity_factor=2.0), x[:1])[1]) == 2
        # Checkpointed segments are computed without gradients first, then with.
        assert expert_input(layer.train(), x)[1] == (4, 136, 8)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert expert_input(layer.eval(), mode.from_tensor(x))[1] == (4, 136, 8)
        assert expert_input(layer.to("meta"), x.to("meta"))[1] == (4, 136, 8)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace.*")
@pytest.mark.parametrize("way", ["compile", "export", "trace"])
def test_recorded_programs_keep_empty_slots(way: str) -> None:
    layer, first, x = build(), torch.randn(8, 32, 8), torch.randn(8, 32, 8)
    seen = []
    layer.experts.fc1.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    if way == "compile":
        torch._dynamo.reset()
        program: Any = torch.compile(layer, backend="aot_eager", fullgraph=True)
        program(first)
    elif way == "export":
        program = torch.export.export(layer, (first,)).module()
    else:
        program = torch.jit.trace(layer, first, check_trace=False)
    y = program(x)
    # Numbers, and tensors of them where traced.
    assert seen and all(shape == (4, 136, 8) for shape in seen)
    torch.testing.assert_close(y, layer(x))
    assert len(seen[-1]) == 2


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "relu"])
def test_experts_are_perceptrons_of_their_own(act: str) -> None:
    torch.manual_seed(0)
    experts = ExpertMlp(8, 16, 3, act, identical=False, **DOUBLE)
    for bias in (experts.fc1.bias, experts.fc2.bias):
        nn.init.normal_(bias)
    x, weight = (torch.randn(3, 5, 8, **DOUBLE) for _ in range(2))
    x.requires_grad_()
    first, second = experts.fc1, experts.fc2
    expected = torch.stack(
        [
            experts.act(rows @ first.weight[i] + first.bias[i]) @ second.weight[i] + second.bias[i]
            for i, rows in enumerate(x)
        ]
    )
    leaves = [x, *experts.parameters()]
    gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    for ends in (None, torch.tensor([5, 10, 15], dtype=torch.int32)):
        y = experts(x) if ends is None else experts(x.flatten(0, 1), ends).view_as(x)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
        for actual, gradient in zip(torch.autograd.grad((y * weight).sum(), leaves), gradients, strict=True):
            torch.testing.assert_close(actual, gradient, rtol=0, atol=1e-12)
    # Another activation, put in its place, is taken.
    experts.act = nn.Identity()
    torch.testing.assert_close(
        experts(x)[0], (x[0] @ first.weight[0] + first.bias[0]) @ second.weight[0] + second.bias[0]
    )


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh"])
def test_the_kernel_of_bias_and_gelu_computes_the_same(
    act: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    experts = ExpertMlp(8, 16, 3, act, identical=False).to(device)
    nn.init.normal_(experts.fc1.bias)
    x, found, seen = torch.randn(3, 5, 8, device=device, requires_grad=True), [], []
    experts.fc1.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    for backend in ("reference", "triton"):
        monkeypatch.setattr(moe, "bias_gelu", partial(bias_gelu, backend=backend))
        y = experts(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *experts.parameters()])])
    assert seen == [(3, 5, 16)] * 2
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("priority", ["vanilla", "batch"])
def test_kernels_route_alike(
    priority: str, members: int, training: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kernels of the layer, on a batch whose last group is short and whose experts drop tokens."""
    options = {"num_members": members, "load_weight": 0.005 if members == 1 else 0.0}
    layer = build(priority, 0.7, group_images=3, **options).train(training).to(device)
    layer.keep_routing = True
    x, found, routings = torch.randn(7 * members, 5, 8, device=device, requires_grad=True), [], []
    for backend in ("reference", "triton"):
        for module, name in [(moe, "moe_dispatch"), (moe, "moe_combine"), (moe, "bias_gelu")] + [
            (moe_routers, name) for name in ("top_k_gates", "moe_slots", "wide_linear")
        ]:
            monkeypatch.setattr(module, name, partial(getattr(gatedvision_kernels, name), backend=backend))
        torch.manual_seed(1)
        y, losses = layer(x), layer.last.losses
        total = y.square().sum() + sum(loss.sum() for loss in losses.values())
        found.append([y, *losses.values(), *torch.autograd.grad(total, [x, *layer.parameters()])])
        routings.append(layer.last.routing)
    assert set(losses) == {"importance", "gshard"} | ({"load"} if training else set())
    for name in ("slot_of_choice", "choice_of_slot", "experts", "capacity"):
        torch.testing.assert_close(*(getattr(routing, name) for routing in routings), rtol=0, atol=0)
    assert (routings[1].slot_of_choice < 0).any() and (routings[1].choice_of_slot < 0).any()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


def test_experts_start_identical() -> None:
    experts = ExpertMlp(8, 16, 3)
    for name, x in experts.state_dict().items():
        assert torch.equal(x, x[:1].expand_as(x)), name
        assert x.std() > 0
    assert not torch.equal(*ExpertMlp(8, 16, 2, identical=False).fc1.weight)


def test_losses_are_kept_for_the_task_and_left_out_of_copies() -> None:
    layer = build().train()
    layer(torch.randn(9, 5, 8))
    assert {name: loss.shape for name, loss in layer.last.losses.items()} == {"importance": (2,), "load": (2,)}
    assert layer.last.routing is None
    assert copy.deepcopy(layer).last.losses == {}
    torch.save(layer, file := io.BytesIO())
    file.seek(0)
    assert torch.load(file, weights_only=False).last.losses == {}
    layer.eval()(torch.randn(1, 5, 8))
    assert layer.last.losses == {}


def test_under_autocast_buffers_are_narrow() -> None:
    layer, x = build(capacity_factor=4.0), torch.randn(2, 5, 8)
    expected, seen = layer(x), []
    layer.experts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert seen == [torch.bfloat16] and y.dtype == torch.bfloat16
    assert (y - expected).std() < 0.02 * expected.std()
