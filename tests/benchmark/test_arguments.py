"""What the command line of each benchmark offers is what the benchmark takes."""

from argparse import ArgumentParser
from collections.abc import Callable
from inspect import signature

import pytest

from gatedvision import benchmark
from gatedvision.benchmark import arguments

PAIRS = {
    arguments.add_operator: (benchmark.benchmark_attention, []),
    arguments.add_blocks: (benchmark.benchmark_blocks, ["hornet_tiny_7x7"]),
    arguments.add_model: (benchmark.benchmark_models, ["vig_t"]),
    arguments.add_experts: (benchmark.benchmark_experts, []),
    arguments.add_scales: (benchmark.benchmark_mixed_scale, []),
    arguments.add_tune: (benchmark.tune_kernels, []),
    arguments.add_plain: (benchmark.benchmark_plain, []),
    arguments.add_compare: (benchmark.compare_runs, ["new.json", "old.json"]),
    arguments.add_merge: (benchmark.merge_runs, ["new.json", "--out", "all.json"]),
}
# What the tool passes beside a command's own options; to those not named, the precision.
BESIDE = {arguments.add_plain: {}, arguments.add_compare: {}, arguments.add_merge: {"command": "python"}}


@pytest.mark.parametrize("add", PAIRS, ids=lambda add: add.__name__)
def test_options_are_parameters(add: Callable[[ArgumentParser], None]) -> None:
    timed, least = PAIRS[add]
    command = ArgumentParser()
    add(command)
    options = vars(command.parse_args(least))
    # A plot is drawn of the results, by the tool.
    options.pop("plot", None)
    signature(timed).bind(**options, **BESIDE.get(add, {"dtype": "bf16"}))


def test_every_command_is_one_of_them() -> None:
    assert {name for name in vars(arguments) if name.startswith("add_")} == {add.__name__ for add in PAIRS}
