"""What the tests of all operators share: inputs, and the comparison with the definition."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

# Two roundings to nearest, of at most 2**-11 (float16) or 2**-8 (bfloat16) each, as of a sum and of its
# norm; float32 adds up rows and columns. Triton's interpreter cuts bfloat16 off instead of rounding it.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
if not torch.cuda.is_available():
    TOLERANCE[torch.bfloat16] = 2**-6


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan() -> Iterator[None]:
    """Make an element that a kernel forgot to write visible."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def make_inputs(device: torch.device) -> Callable[..., dict[str, Tensor]]:
    def make(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
            for name, shape in shapes.items()
        }

    return make


def outputs_and_gradients(call: Callable, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name every output of a call and every gradient of a random projection of its outputs."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    outputs = call(**leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(1)
    # Rounded to the narrowest dtype, so that they are the same numbers in all of them.
    seeds = [torch.randn(y.shape, generator=generator, dtype=torch.bfloat16).to(y) for y in outputs]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), seeds)
    named = {f"output {i}": y.detach() for i, y in enumerate(outputs)}
    return named | {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}


@pytest.fixture
def assert_agrees() -> Callable[..., None]:
    """Compare the kernels of an operator with its definition in float64, output by output."""

    def check(operator: Callable, inputs: dict[str, Tensor], tolerance: float | None = None) -> None:
        if tolerance is None:
            tolerance = max(TOLERANCE[x.dtype] for x in inputs.values())
        actual = outputs_and_gradients(lambda **x: operator(**x, backend="triton"), inputs)
        wide = {name: x.double() for name, x in inputs.items()}
        expected = outputs_and_gradients(lambda **x: operator(**x, backend="reference"), wide)
        for name, value in expected.items():
            # Where terms cancel an element is small, its error is not: hence the size of the others, and
            # where all cancel (the norm of a single channel has slope 0) that of the inputs, which is 1.
            size = max(value.square().mean().sqrt().item(), 1.0) if value.numel() else 0.0
            torch.testing.assert_close(
                actual[name].double(),
                value,
                rtol=tolerance,
                atol=tolerance * size,
                msg=lambda text, name=name: f"{name}: {text}",
            )

    return check
