"""Environment of the whole suite, set before the libraries that read it at import."""

import os

import pytest
import torch

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
if not torch.cuda.is_available():
    # Triton, not imported so far, then runs kernels on the CPU when a test asks for them.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let inductor write its loops for the CPU without vectors, which take g++ twice as long and are torch's own."""
    from torch._inductor import cpu_vec_isa

    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", list)
