import pytest
import torch
import torch.nn.functional as F

from gatedvision.layers.gated_linear_attention import log_sigmoid


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 2e-7), (torch.bfloat16, 8e-3)])
def test_log_sigmoid(dtype, limit):
    # -inf itself has no log-decay that a chunk could be summed with.
    x = torch.cat([torch.linspace(-300, 300, 2001), torch.tensor([0.0, 1e30, -1e30, torch.inf])]).to(dtype)
    x.requires_grad_()
    y, expected = log_sigmoid(x), F.logsigmoid(x.double())
    assert y.dtype == dtype and ((y - expected).abs() <= limit * (1 + expected.abs())).all()
    grads = [torch.autograd.grad(z[:-1].sum(), x, retain_graph=True)[0][:-1] for z in (y, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=limit)
    assert grads[0][2001] == 0.5
