"""Who runs an operator: the kernels, the reference, or an error that says why not."""

import pytest
import torch

from gatedvision_kernels import _dispatch
from gatedvision_kernels._dispatch import use_triton

ON_GPU = torch.cuda.is_available()


def test_auto_takes_the_kernels_on_gpus_only(device):
    assert use_triton("auto", torch.ones(2, device=device)) is ON_GPU
    assert use_triton("auto", torch.ones(2, device="meta")) is False
    assert use_triton("auto", torch.ones(2, device=device), torch.ones(2)) is False
    assert use_triton("auto", torch.ones(2, device=device, dtype=torch.float64)) is False
    assert use_triton("reference", torch.ones(2, device=device)) is False
    assert use_triton("triton", torch.ones(2, device=device)) is True


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend must be 'auto', 'triton' or 'reference', got 'cuda'"):
        use_triton("cuda", torch.ones(2))


def test_dtype_without_kernels(device):
    with pytest.raises(ValueError, match=r"dtypes \['torch.float64'\] are not among"):
        use_triton("triton", torch.ones(2, device=device, dtype=torch.float64))


def test_integers_are_taken_as_they_are(device):
    x, index = torch.ones(2, device=device), torch.ones(2, device=device, dtype=torch.int64)
    assert use_triton("triton", indices=(index,)) is True
    assert use_triton("auto", x, indices=(index,)) is ON_GPU
    assert use_triton("auto", x, indices=(index.to("meta"),)) is False
    with pytest.raises(ValueError, match=r"tensors lie on \[.*'meta'\], not on cuda"):
        use_triton("triton", x, indices=(index.to("meta"),))


def test_old_triton(device, monkeypatch):
    """Triton 3.2 kills the process where it should compile."""
    monkeypatch.setattr(_dispatch, "TRITON", (3, 2))
    assert use_triton("auto", torch.ones(2, device=device)) is False
    with pytest.raises(ValueError, match=r"cannot run: triton 3\.2 is too old, the kernels need 3\.3"):
        use_triton("triton", torch.ones(2, device=device))
