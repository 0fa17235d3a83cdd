import torch

from gatedvision.layers.bounded_gradient import bound_gradient


def gradient_of(weights: torch.Tensor) -> torch.Tensor:
    x = torch.zeros_like(weights, requires_grad=True)
    y = bound_gradient(x, 3.0)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    return gradient


def test_only_what_is_far_from_the_median_is_bounded_at_any_scale():
    weights = torch.tensor([[1.0, -2.0, 0.0, 0.0], [2.0, 1e6, -7.0, 0.0]])
    expected = torch.tensor([[1.0, -2.0, 0.0, 0.0], [2.0, 6.0, -6.0, 0.0]])
    for scale in (1.0, 1e-6, 65536.0):
        torch.testing.assert_close(gradient_of(scale * weights), scale * expected)


def test_nothing_to_bound():
    assert torch.equal(gradient_of(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert torch.equal(gradient_of(torch.ones(2, 3)), torch.ones(2, 3))


def test_compiled():
    x = torch.tensor([1.0, 1.0, 100.0], requires_grad=True)
    compiled = torch.compile(lambda x: bound_gradient(x, 3.0) * x.detach(), backend="aot_eager", fullgraph=True)
    compiled(x).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 3.0]
