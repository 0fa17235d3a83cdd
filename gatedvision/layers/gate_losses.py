"""What keeps a gate between coarse and fine regions at a chosen share of fine ones (arXiv:2307.02321).

Shapes: B images, N regions of an image. ``coarse`` ``[B, N]`` is the soft choice of the gate in training, 1 for a
region that stays one coarse token and 0 for one that is cut into fine tokens.
"""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from gatedvision.layers.batch_shaping import GeneralizedBatchShaping, batch_shaping_loss, gather_batch
from gatedvision.layers.shaping_priors import BetaPrior, RelaxedBernoulliPrior

KINDS = ("generalized", "batch_shaping", "mean_rate", "gain")
# Priors take values outside of [0.001, 0.999] for these, without gradient: a gate that has gone there would stay.
MARGIN = 2e-3


class GateLoss(nn.Module):
    """Holds the share of fine regions at a target, over the batches of all processes.

    ``generalized``: a prior is learned for each region, and a beta distribution of mean 1 - ``target`` holds the means
    of the priors together (:class:`~gatedvision.layers.batch_shaping.GeneralizedBatchShaping`). ``batch_shaping``: the
    same fixed prior for every region, hence the same share everywhere. ``mean_rate``: the square of what the mean over
    all regions is off by, which neither decides a gate nor spreads its choices. ``gain``: for a gate that predicts what
    fine regions gain, and chooses the best share of each batch (``share`` of
    :class:`~gatedvision.layers.mixed_scale_gate.MixedScaleGate`): the quantile loss, by which its border comes to where
    that share lies beyond it, for images that come alone.

    Args:
        num_regions: N; the first kind has parameters for each of them.
        target: wanted share of fine regions, between 0 and 1. Their coarse share is 1 - ``target``.
        kind: one of the four above.
        weight: of the loss beside that of the task, at least 0.
        concentration: how alike the regions' shares are to be: that of the beta distribution, above 0. Its deviation is
            that of a share counted from so many draws and one more; 10 was published in an experiment.
        temperature: of the fixed prior of ``batch_shaping``, above 0; the lower, the more decided the gate.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        num_regions: int,
        target: float = 0.5,
        kind: str = "generalized",
        weight: float = 4.0,
        concentration: float = 10.0,
        temperature: float = 0.3,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind of gate loss must be one of {', '.join(KINDS)}, got {kind!r}")
        if not 0.0 < target < 1.0:
            raise ValueError(f"target, the share of fine regions, must lie between 0 and 1, got {target}")
        if not weight >= 0.0:
            raise ValueError(f"weight of the gate loss must be at least 0, got {weight}")
        if not 0.0 < concentration < float("inf"):
            raise ValueError(f"concentration must be above 0 and finite, got {concentration}")
        self.kind = kind
        self.target = target
        self.weight = weight
        self.prior = RelaxedBernoulliPrior(1.0 - target, temperature)
        self.hyperprior = BetaPrior(concentration * (1.0 - target), concentration * target)
        self.shaping: Optional[GeneralizedBatchShaping] = None
        if kind == "generalized":
            dd = {"device": device, "dtype": dtype}
            self.shaping = GeneralizedBatchShaping(num_regions, self.hyperprior, mean=1.0 - target, **dd)

    def set_num_regions(self, num_regions: int) -> None:
        """Make it for another number of regions, for good; what was learned for their places is lost."""
        if self.shaping is not None and num_regions != len(self.shaping.mean_logit):
            like = self.shaping.mean_logit
            dd = {"device": like.device, "dtype": like.dtype}
            self.shaping = GeneralizedBatchShaping(num_regions, self.hyperprior, mean=1.0 - self.target, **dd)

    def forward(self, coarse: Tensor) -> dict[str, Tensor]:
        """Judge the choices of a batch.

        Args:
            coarse: ``[B, N]``, 0 to 1, with gradient.

        Returns:
            ``auxiliary``, what is to be added to the loss of the task, and its parts before their weights.

        Raises:
            ValueError: there are not as many regions as the loss was made for.
        """
        if self.shaping is not None and coarse.shape[1:] != self.shaping.mean_logit.shape:
            raise ValueError(
                f"the gate's loss has priors for {len(self.shaping.mean_logit)} regions, and the images have "
                f"{coarse.shape[1]}: build the model for their img_size, or call set_input_size"
            )
        # In the precision of the loss: half the numbers between 0 and 1 are too few to be put in order.
        coarse = gather_batch(coarse.to(torch.promote_types(coarse.dtype, torch.float32)))
        inside = MARGIN + (1 - 2 * MARGIN) * coarse
        if self.shaping is not None:
            terms = {f"gate_{name}": term for name, term in self.shaping(inside).items()}
        elif self.kind == "batch_shaping":
            terms = {"gate_total": batch_shaping_loss(inside, self.prior, dim=1)}
        elif self.kind == "gain":
            # In logits, where a shared bias moves all alike.
            beyond = torch.logit(coarse, eps=1e-6)
            terms = {"gate_total": torch.maximum(self.target * beyond, (self.target - 1) * beyond).mean()}
        else:
            terms = {"gate_total": (1 - coarse.mean() - self.target).square()}
        return {"auxiliary": self.weight * terms.pop("gate_total"), **terms}

    def extra_repr(self) -> str:
        """Name what is held, and how."""
        return f"kind={self.kind!r}, target={self.target:g}, weight={self.weight:g}"
