"""Environment of the whole suite, set before the libraries that read it at import."""

import os

import pytest
import torch

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
if not torch.cuda.is_available():
    # Triton, not imported so far, then runs kernels on the CPU when a test asks for them.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where kernels run: the GPU, or the CPU in Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
