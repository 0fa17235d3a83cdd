import pytest
import torch

from gatedvision_kernels._rows import as_rows


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 3, 8),
        torch.randn(2, 3, 16).chunk(2, dim=-1)[1],
        torch.randn(6, 16)[:, 4:12].unflatten(0, (2, 3)),
        torch.randn(2, 3, 16).unflatten(-1, (2, 8)),
    ],
    ids=["contiguous", "half", "slice", "heads"],
)
def test_adjacent_elements_are_not_copied(x):
    rows = as_rows(x)
    assert rows.data_ptr() == x.data_ptr()
    assert rows.equal(x.reshape(-1, 8))


def test_spread_elements_are_copied():
    x = torch.randn(3, 8, 2)[..., 0]
    rows = as_rows(x)
    assert rows.stride(1) == 1
    assert rows.equal(x)
