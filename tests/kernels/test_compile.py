"""Kernels compile for GPUs that are not here: the interpreter forgives what a compiler does not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

import gatedvision_kernels

# Two cores take minutes for all kernels, and longer beside other tests.
pytestmark = pytest.mark.timeout(1200)
BINARIES = {"cuda:80": "cubin", "cuda:90": "cubin", "hip:gfx942": "hsaco"}


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What compiling every kernel came to, by target; all targets at once, without the interpreter."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(gatedvision_kernels.__file__).parents[1])
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    script = Path(__file__).with_name("compile_cases.py")
    processes = {
        target: subprocess.Popen([sys.executable, script, target], env=environment, stdout=PIPE, stderr=PIPE, text=True)
        for target in BINARIES
    }
    results = {target: process.communicate() for target, process in processes.items()}
    for target, process in processes.items():
        assert process.returncode == 0, f"{target}: {results[target][1]}"
    return {target: json.loads(output.splitlines()[-1]) for target, (output, _) in results.items()}


@pytest.mark.parametrize("target", BINARIES)
def test_kernels_compile(target, reports):
    outcomes = reports[target]["outcomes"]
    assert outcomes
    assert {case: outcome for case, outcome in outcomes.items() if outcome != BINARIES[target]} == {}


def test_no_kernel_is_left_out(reports):
    assert [report["kernels without case"] for report in reports.values()] == [[]] * len(BINARIES)
