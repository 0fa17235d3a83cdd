"""Compilers see kernels and operations of torch where an operator was called; depthwise convolution stays a call.

So does attention of many tokens.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gatedvision_kernels._operator import custom_op
from tests.kernels.test_contract import OPERATORS

WHOLE = {"depthwise_conv2d"}
# Whole numbers have no gradient, nor has what is one itself; those of a matrix product are products of torch.
FORWARD_ONLY = {"additive_gate", "key_gains", "moe_slots", "wide_linear"}


@pytest.fixture(scope="module")
def graphs() -> dict[str, dict[str, list[str]]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("graph_cases.py")
    process = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize("name", [*OPERATORS, "large bidirectional_gla"])
def test_what_a_compiler_sees(name, which, graphs):
    calls = graphs[name][which]
    own = {call.split(".")[1] for call in calls if call.startswith("gatedvision.")}
    operator = name.removeprefix("large ")
    if operator in WHOLE or operator != name:
        assert own == {operator if which == "forward" else f"{operator}_backward"}
        return
    assert not own
    assert ("triton_kernel_wrapper_functional" in calls) == (which == "forward" or name not in FORWARD_ONLY)
    # A kernel that writes to a part of a tensor would have a compiler copy the rest.
    assert not [call for call in calls if "scatter" in call]


def test_is_an_operator_of_torch():
    double = custom_op("double_for_a_test", lambda x: 2 * x, schema="(Tensor x) -> Tensor")
    double.register_fake(torch.empty_like)
    x = torch.randn(3)
    assert torch.equal(torch.ops.gatedvision.double_for_a_test(x), 2 * x)

    class Double(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return double(x)

    # Programs outlast the kernels of this release, so they hold the operator by its name.
    program = torch.export.export(Double(), (x,))
    assert "gatedvision.double_for_a_test" in str(program.graph)
