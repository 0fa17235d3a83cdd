import torch

from gatedvision.layers.predicted_gain import predict_gain


def gradient_of(
    scores: torch.Tensor, losses: torch.Tensor, chosen: torch.Tensor | None = None, bound: float = 30.0
) -> torch.Tensor:
    scores = scores.clone().requires_grad_()
    chosen = torch.ones_like(scores, dtype=torch.bool) if chosen is None else chosen
    y = predict_gain(scores, chosen, bound)
    assert torch.equal(y, chosen.to(scores.dtype))
    (gradient,) = torch.autograd.grad((y * losses).sum(), scores)
    return gradient


def test_scores_are_drawn_to_the_negative_of_the_losses_in_units_of_their_mean_size():
    scores, losses = torch.tensor([0.5, -0.5, 0.25, 1.0]), torch.tensor([3.0, -1.0, 2.0, -2.0])
    error = scores + losses / 2
    for scale in (1.0, 1e-8):
        torch.testing.assert_close(gradient_of(scores, scale * losses), (error - error.mean()) / 4)
    # There it rests, and also where all scores are higher.
    for offset in (0.0, 3.0):
        assert gradient_of(offset - losses / 2, losses).abs().max() < 1e-6


def test_what_is_not_chosen_or_not_known_is_left_out():
    scores, losses = torch.tensor([0.5, -0.5, 9.0, 1.0, 4.0]), torch.tensor([3.0, -1.0, 0.0, -2.0, 1e6])
    chosen = torch.tensor([True, True, True, True, False])
    gradient = gradient_of(scores, losses, chosen)
    known = [0, 1, 3]
    torch.testing.assert_close(gradient[known], gradient_of(scores[known], losses[known]))
    assert gradient[2] == 0 and gradient[4] == 0
    assert not gradient_of(scores, torch.zeros(5)).any()
    assert not gradient_of(scores, losses, torch.zeros(5, dtype=torch.bool)).any()


def test_single_losses_are_bounded():
    scores = torch.zeros(5)
    bounded = gradient_of(scores, torch.tensor([1.0, -1.0, 1.0, -1.0, 1e9]), bound=3.0)
    torch.testing.assert_close(bounded, gradient_of(scores, torch.tensor([1.0, -1.0, 1.0, -1.0, 3.0])))


def test_compiled():
    scores = torch.tensor([0.5, -0.5, 1.0], requires_grad=True)
    losses = torch.tensor([1.0, 2.0, -1.0])
    compiled = torch.compile(
        lambda x: (predict_gain(x, x.detach() > 0, 30.0) * losses).sum(), backend="aot_eager", fullgraph=True
    )
    compiled(scores).backward()
    torch.testing.assert_close(scores.grad, gradient_of(scores.detach(), losses, scores.detach() > 0))
