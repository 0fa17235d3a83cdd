"""The kernel layer stands alone: in a fresh interpreter, it needs torch and nothing built on it."""

import os
import subprocess
import sys
from pathlib import Path

import gatedvision_kernels


def run(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path(gatedvision_kernels.__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_imports_nothing_above_it():
    code = "import sys, gatedvision_kernels; print(*({'gatedvision', 'timm', 'mmengine'} & set(sys.modules)))"
    assert run(code) == ""


def test_works_without_triton():
    code = """
import sys
sys.modules["triton"] = None  # its import then fails, as where it is not installed
import torch
from gatedvision_kernels import swiglu
print(swiglu(torch.tensor([0.0, 2.0])).item())
try:
    swiglu(torch.ones(2), backend="triton")
except ValueError as error:
    print(error)
"""
    assert run(code).splitlines() == ["0.0", "backend='triton' cannot run: triton is not installed; use backend='auto'"]
