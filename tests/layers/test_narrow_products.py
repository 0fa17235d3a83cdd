"""Which matrices are multiplied as they are, and in which type the product is."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gatedvision.layers._narrow_products import HAS_WIDE_RESULTS, multiplies_narrow, product


def test_others_are_multiplied_in_their_own_type() -> None:
    a, b = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    assert torch.equal(product(a, b), a @ b)
    with torch.no_grad():
        assert not multiplies_narrow(a) and not multiplies_narrow(a.bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_on_a_gpu_without_gradients(dtype: torch.dtype) -> None:
    # Without contents, such tensors need no GPU.
    with FakeTensorMode():
        x = torch.empty(2, 4, 4, device="cuda", dtype=dtype)
        assert not multiplies_narrow(x)
        with torch.no_grad():
            assert multiplies_narrow(x) == (HAS_WIDE_RESULTS and dtype != torch.float32)
            if multiplies_narrow(x):
                assert product(x, x).dtype == torch.float32
