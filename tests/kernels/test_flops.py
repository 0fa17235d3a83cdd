"""What flop counters see where the operator is one call: in exported and compiled graphs."""

import torch
from torch.utils.flop_counter import FlopCounterMode

import gatedvision_kernels  # noqa: F401  registers the operators

BATCH, TOKENS, HEADS, K, V = 2, 196, 3, 32, 64


def test_forward_and_backward_count_the_recurrence():
    widths = (K, K, V, K, K)
    inputs = [torch.empty(BATCH, TOKENS, HEADS, width, device="meta", requires_grad=True) for width in widths]
    with FlopCounterMode(display=False) as forward:
        output, *_ = torch.ops.gatedvision.bidirectional_gla(*inputs, 1.0)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    assert forward.get_total_flops() == BATCH * TOKENS * HEADS * 8 * K * V
    assert backward.get_total_flops() == BATCH * TOKENS * HEADS * 20 * K * V


def test_depthwise_convolution_counts_a_product_per_tap():
    x, weight = (torch.empty(shape, device="meta", requires_grad=True) for shape in ((2, 8, 6, 12), (12, 1, 5, 5)))
    with FlopCounterMode(display=False) as forward:
        output = torch.ops.gatedvision.depthwise_conv2d(x, weight, None, 2)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    assert forward.get_total_flops() == 2 * x.numel() * 25
    assert backward.get_total_flops() == 4 * x.numel() * 25


def test_additive_gate_counts_its_projections():
    shapes = ((2, 6, 4, 5), (2, 10, 4, 5), (3, 6), (3, 10), (3,), (3,), (1,))
    inputs = [torch.empty(shape, device="meta", requires_grad=True) for shape in shapes]
    with FlopCounterMode(display=False) as forward:
        output, _ = torch.ops.gatedvision.additive_gate(*inputs)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    assert forward.get_total_flops() == 2 * 2 * 20 * 3 * (6 + 10 + 1)
    # All of it once more, and two products for each projection; torch does not count psi's, of a matrix and a vector.
    assert backward.get_total_flops() == 2 * 2 * 20 * 3 * (3 * (6 + 10) + 1)
