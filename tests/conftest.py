"""Environment of the whole suite, set before the libraries that read it at import."""

import os

import torch

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
if not torch.cuda.is_available():
    # Triton, not imported so far, then runs kernels on the CPU when a test asks for them.
    os.environ["TRITON_INTERPRET"] = "1"
