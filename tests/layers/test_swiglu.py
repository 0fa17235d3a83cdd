import pytest

from gatedvision.layers.swiglu import swiglu_width


@pytest.mark.parametrize(
    ("dim", "multiple", "width"),
    [(192, 256, 512), (384, 256, 1024), (768, 256, 2048), (96, 32, 256), (128, 32, 352), (1024, 32, 2752)],
)
def test_width_of_the_mlp(dim: int, multiple: int, width: int) -> None:
    assert swiglu_width(dim, multiple) == width
