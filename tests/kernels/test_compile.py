"""Kernels compile for GPUs that are not here: the interpreter forgives what a compiler does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gatedvision_kernels

# A core takes a minute for all kernels, and longer beside other tests.
pytestmark = pytest.mark.timeout(1200)
BINARIES = {"cuda:80": "cubin", "cuda:90": "cubin", "hip:gfx942": "hsaco"}


@pytest.mark.parametrize("target", BINARIES)
def test_kernels_compile(target, tmp_path):
    # A process of its own, without the interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(Path(gatedvision_kernels.__file__).parents[1])
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, Path(__file__).with_name("compile_cases.py"), target]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["outcomes"]
    assert {case: outcome for case, outcome in report["outcomes"].items() if outcome != BINARIES[target]} == {}
    assert report["kernels without case"] == []
