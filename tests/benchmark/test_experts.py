import copy

import pytest
import torch

from gatedvision.benchmark.experts import benchmark_experts, check_candidate, make_candidates
from gatedvision.benchmark.timing import Spread
from gatedvision.layers.moe import ExpertMlp, MoeMlp
from gatedvision.layers.moe_routers import TopKRouter

SMALL = dict(images=4, tokens=9, width=8, hidden=16, experts=4, seconds=0.001)
NAMES = [
    "dense perceptron",
    "gatedvision MoeMlp",
    "its experts alone",
    "grouped_mm, torch indexing",
    "einsum, one-hot masks",
]


def candidates(dtype=torch.float32, images=10, capacity=0.5):
    torch.manual_seed(0)
    router = TopKRouter(8, 4, 2, capacity, dtype=dtype)
    layer = MoeMlp(router, ExpertMlp(8, 16, 4, identical=False, dtype=dtype)).eval()
    return make_candidates(layer, torch.randn(images, 9, 8, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_all_are_the_same_layer(dtype):
    found = candidates(dtype)
    assert [candidate.name for candidate in found] == NAMES
    for candidate in found:
        assert 0 < check_candidate(candidate) < 2 * torch.finfo(dtype).eps, candidate.name
    # Twice five images, a third of whose choices are dropped or so.
    layer, ours = found[1].module, found[1].run(found[1].x)
    layer.keep_routing = True
    layer(found[1].x)
    kept = (layer.last.routing.slot_of_choice >= 0).sum(1)
    assert len(kept) == 90 and {0, 1, 2} == set(kept.tolist())
    assert not ours.flatten(0, 1)[kept == 0].any()


def test_the_dense_perceptron_executes_as_many_products():
    dense, ours, alone, *_ = candidates(capacity=1.05)
    slots = 4 * 2 * 24  # 45 tokens make 22.5 choices an expert, times 1.05 rounded up to a multiple of four
    assert dense.x.shape == (slots, 8) and alone.x.shape == (4, slots // 4, 8)
    macs = [sum(p.numel() for p in module.parameters() if p.ndim > 1) for module in (dense.module[0], dense.module[2])]
    assert macs == [ours.module.experts.fc1.weight[0].numel(), ours.module.experts.fc2.weight[0].numel()]


@pytest.mark.parametrize("index", range(5))
def test_a_wrong_candidate_is_refused(index):
    candidate = candidates()[index]
    wrong = candidate._replace(run=lambda x: 1.02 * candidate.run(x))
    with pytest.raises(ValueError, match=f"not timed, output of {candidate.name} is wrong: relative error 0.02"):
        check_candidate(wrong)


def test_a_wrong_gradient_is_refused():
    candidate = candidates()[1]
    module = copy.deepcopy(candidate.module)

    def steepen(_, __, found):
        # The same gates, whose slope is 2 % too steep.
        routing, losses = found
        return routing._replace(gates=1.02 * routing.gates - 0.02 * routing.gates.detach()), losses

    module.router.register_forward_hook(steepen)
    with pytest.raises(ValueError, match="not timed, gradient of x of gatedvision MoeMlp is wrong"):
        check_candidate(candidate._replace(module=module, run=module))


def test_rows():
    report = benchmark_experts(**SMALL, capacities=[2.0, 0.5], dtype="fp32")
    assert [row["layer"] for row in report.rows] == [name for name in NAMES for _ in range(2)] * 2
    assert [row["capacity"] for row in report.rows] == [2.0] * 10 + [0.5] * 10
    for row, dense in zip(report.rows, [*report.rows[:2] * 5, *report.rows[10:12] * 5], strict=True):
        time = row["eager ms (20–80 %)"]
        assert isinstance(time, Spread) and 0 < time.low <= time.median <= time.high
        assert row["pass"] == dense["pass"]
        assert row["times dense"] == pytest.approx(time.median / dense["eager ms (20–80 %)"].median)
    assert report.title == "fp32, images 4, tokens 9, width 8, hidden 16, experts 4, 2 selected"
