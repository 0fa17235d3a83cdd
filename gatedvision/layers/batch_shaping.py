"""Losses that make gates follow a distribution (arXiv:1907.06627), or one each that they learn (arXiv:2307.02321).

Shapes: B images of all processes, G gates, such as the regions of an image.
"""

from math import log
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gatedvision.layers._processes import num_processes
from gatedvision.layers.shaping_priors import Prior, RelaxedBernoulliPrior


def batch_shaping_loss(values: Tensor, prior: Prior, dim: Optional[int] = None, handle_ties: bool = False) -> Tensor:
    """Return the mean squared distance between the distribution of values and a prior (arXiv:1907.06627, section 3.2).

    Of a group of N values, the i-th in ascending order, i = 1..N, is compared at i / (N + 1), as in the published code.

    Args:
        values: numbers 0 to 1, of any shape.
        prior: what each group is to follow.
        dim: axis that indexes the groups; everything else is flattened into them. ``None`` makes one group of all.
        handle_ties: equal values share the highest of their places.

    Returns:
        The mean over the groups, a scalar of the type of the values, at least float32.

    Raises:
        ValueError: there are no values, or the parameters of the prior do not fit the groups.
    """
    if values.numel() == 0:
        raise ValueError(f"batch-shaping needs values, got shape {tuple(values.shape)}")
    groups = values.reshape(1, -1) if dim is None else values.movedim(dim, 0).flatten(1)
    groups = groups.to(torch.promote_types(values.dtype, torch.float32)).sort(1).values
    count = groups.shape[1]
    places = torch.arange(1, count + 1, dtype=groups.dtype, device=groups.device).expand_as(groups)
    if handle_ties:
        ordered = groups.detach().contiguous()
        places = torch.searchsorted(ordered, ordered, right=True).to(groups.dtype)
    return (places / (count + 1) - prior.cdf(groups)).square().mean()


def gather_batch(x: Tensor) -> Tensor:
    """Join the processes' batches along the first axis; without several processes, return the batch as it is.

    Gradients reach this process's share, scaled for the average that data parallel training takes of them.

    Args:
        x: ``[B, ...]``, with as many images in each process.
    """
    if num_processes() == 1:
        return x
    shares = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(num_processes())]
    own = x.detach().contiguous()
    dist.all_gather(shares, own)
    shares[dist.get_rank()] = own + len(shares) * (x - own)
    return torch.cat(shares)


class GeneralizedBatchShaping(nn.Module):
    """Batch-shaping with a prior for each gate whose parameters are learned, and a hyperprior for their means.

    L = mean over gates of L(x_k; m_k, t_k) + L(m; hyperprior) + w mean |t|, with relaxed Bernoulli priors of mean
    m = sigmoid(a) and temperature t = sigmoid(b) (arXiv:2307.02321). Only the means of all gates are held to the
    hyperprior: a gate may open more often than another.

    Args:
        num_gates: G.
        hyperprior: what the means of the priors are to follow.
        temperature_weight: w, which makes gates decided, at least 0.
        mean: of the priors at the start, between 0 and 1.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        num_gates: int,
        hyperprior: Prior,
        temperature_weight: float = 0.1,
        mean: float = 0.5,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if num_gates < 1:
            raise ValueError(f"num_gates must be at least 1, got {num_gates}")
        if not 0.0 < mean < 1.0:
            raise ValueError(f"mean must lie between 0 and 1, got {mean}")
        if not temperature_weight >= 0.0:
            raise ValueError(f"temperature_weight must be at least 0, got {temperature_weight}")
        self.hyperprior = hyperprior
        self.temperature_weight = temperature_weight
        self.start = mean
        self.mean_logit = nn.Parameter(torch.empty(num_gates, device=device, dtype=dtype))
        self.temperature_logit = nn.Parameter(torch.empty(num_gates, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with nearly equal means and temperatures of one half."""
        with torch.no_grad():
            self.mean_logit.normal_(log(self.start / (1 - self.start)), 0.01)
            self.temperature_logit.zero_()

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """Judge the gates of a batch.

        Args:
            values: ``[B, G]``, 0 to 1.

        Returns:
            ``total``, what to minimise, and its parts before their weights: ``prior``, ``hyperprior`` and
            ``temperature``.

        Raises:
            ValueError: there are not so many gates.
        """
        if values.ndim != 2 or values.shape[1] != len(self.mean_logit):
            raise ValueError(f"expected gates [B, {len(self.mean_logit)}], got shape {tuple(values.shape)}")
        mean, temperature = self.mean_logit.sigmoid(), self.temperature_logit.sigmoid()
        prior = batch_shaping_loss(values, RelaxedBernoulliPrior(mean, temperature), dim=1)
        hyperprior = batch_shaping_loss(mean, self.hyperprior)
        spread = temperature.abs().mean()
        total = prior + hyperprior + self.temperature_weight * spread
        return {"total": total, "prior": prior, "hyperprior": hyperprior, "temperature": spread}
