"""The gate of MSViT: one coarse token or several fine ones for each region of an image (arXiv:2307.02321)."""

from collections.abc import Callable
from typing import Any, NamedTuple, Optional, Union

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from gatedvision.layers._transient import Transient
from gatedvision.layers.bounded_gradient import bound_gradient
from gatedvision.layers.predicted_gain import predict_gain

CHOICES = ("gate", "random", "centre", "fine", "coarse")
# Regions that change much are few, and without a bound they decide alone.
GRADIENT_BOUND = 30.0
# Makes a choice from outside: takes the number of images, the grid of regions and a device, and returns ``[B, R]``
# bool, true where a region is coarse.
Policy = Callable[[int, tuple[int, int], torch.device], Tensor]


class RegionChoice(NamedTuple):
    """Which regions of the images are coarse.

    Attributes:
        coarse: ``[B, R]`` bool, regions row by row.
        probability: ``[B, R]``, the soft m, 0 to 1, where 1 is coarse; the choice itself if no gate made it.
        straight: ``[B, R]``, 1 where coarse and 0 where fine, with the gradient of ``probability``; ``None`` where the
            gate learns nothing.
        num_fine: fine regions of each image, if that is the same for all and known beforehand.
        grid: rows and columns of regions; R is their product.
    """

    coarse: Tensor
    probability: Tensor
    straight: Optional[Tensor]
    num_fine: Optional[int]
    grid: tuple[int, int]


class LastChoice(Transient):
    """What a gate keeps of its last forward pass; copies and files of the model leave it out.

    Attributes:
        probability: ``[B, R]``, the soft m of each region, 0 to 1, where 1 is coarse; at least float32, regions row by
            row. With gradient after a forward pass in training. ``1 - probability.mean()`` is the share of fine regions
            as a loss sees it; of a gate that predicts gains, only the border moves it.
        coarse: ``[B, R]`` bool, the choice that the forward pass used.
        grid: rows and columns of regions; R is their product.
    """

    def __init__(self) -> None:
        self.probability: Optional[Tensor] = None
        self.coarse: Optional[Tensor] = None
        self.grid: tuple[int, int] = (0, 0)


class MixedScaleGate(nn.Module):
    """Decides region by region, from the region alone and where it lies, whether it is coarse.

    The embedding of the coarse patch is normalised, gets a position of the gate's own and passes four linear layers.
    In training the logit gets logistic noise, ``m = sigmoid((logit + noise) / temperature)``, the binary
    Gumbel-softmax; a region is coarse if m is above one half, and the gradient of that choice is that of m
    (straight-through), but that of no region is more than 30 times the median. In evaluation there is no noise.

    With a ``share`` it learns in another way: logits predict what a region costs the loss when it is fine, see
    :func:`~gatedvision.layers.predicted_gain.predict_gain`, and in each batch in training the lowest share of them is
    fine. In evaluation regions below 0 are. No logit learns from what all have in common, but for the bias that they
    share, which the loss of :class:`~gatedvision.layers.gate_losses.GateLoss` moves so that 0 is the right border.

    Args:
        dim: channels of a token.
        grid: rows and columns of regions for which the table of positions is made; others resize it.
        hidden_dim: channels between the layers, half of ``dim`` by default.
        choice: ``"gate"``; or, for comparison, ``"random"``, ``"centre"`` (the regions nearest to it are fine),
            ``"fine"`` or ``"coarse"`` for all of them, or a :data:`Policy`.
        budget: share of regions that are fine, 0 to 1, in every image; ``None`` lets the gate choose how many.
        temperature: of m; a low one makes it steep.
        noise: scale of the noise, 0 for none. With a ``share``, it also makes regions coarse that the gate wants fine,
            from which it learns whether they gain.
        initial_logit: the logit at the start, at which nearly all regions are coarse.
        share: of regions that are fine in each batch in training, between 0 and 1, for a gate that predicts gains; the
            logit at the start is 0 then. ``None`` for one that learns straight through.
        detail: tell the gate what regions lose when they are shrunk, too; see
            :func:`~gatedvision.layers.mixed_scale_tokenizer.lost_detail`.
        device: where the parameters are created.
        dtype: in which type the parameters are created.

    Attributes:
        last: what the last forward pass left for losses and pictures, a :class:`LastChoice`.

    Raises:
        ValueError: if an argument is out of range or does not go with the others.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        hidden_dim: Optional[int] = None,
        choice: Union[str, Policy] = "gate",
        budget: Optional[float] = None,
        temperature: float = 1.0,
        noise: float = 1.0,
        initial_logit: float = 3.0,
        share: Optional[float] = None,
        detail: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        hidden_dim = max(1, dim // 2) if hidden_dim is None else hidden_dim
        if hidden_dim < 1:
            raise ValueError(f"hidden_dim must be at least 1, got {hidden_dim}")
        if temperature <= 0 or noise < 0:
            raise ValueError(f"temperature must be above 0 and noise at least 0, got {temperature} and {noise}")
        if share is not None and not 0 < share < 1:
            raise ValueError(f"share of fine regions must lie between 0 and 1, got {share}")
        dd = {"device": device, "dtype": dtype}
        self.grid = grid
        self.temperature = temperature
        self.noise = noise
        self.initial_logit = initial_logit if share is None else 0.0
        self.share = share
        self.last = LastChoice()
        self.set_choice(choice, budget)
        self.norm = nn.LayerNorm(dim, **dd)
        self.pos_embed = nn.Parameter(torch.empty(1, grid[0] * grid[1], dim, **dd))
        self.detail_embed = nn.Parameter(torch.empty(dim, **dd)) if detail else None
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden_dim, **dd),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim, **dd),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim, **dd),
            nn.GELU(),
            nn.Linear(hidden_dim, 1, **dd),
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the layers anew, so that nearly all regions start coarse."""
        self.norm.reset_parameters()
        trunc_normal_(self.pos_embed, std=0.02)
        if self.detail_embed is not None:
            nn.init.zeros_(self.detail_embed)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        trunc_normal_(last.weight, std=0.02)
        nn.init.constant_(last.bias, self.initial_logit)

    # By this name timm asks for it in some of its modes.
    reset_parameters = init_weights

    def set_choice(self, choice: Union[str, Policy], budget: Optional[float] = None) -> None:
        """Change who chooses, and how many; no weight changes.

        Raises:
            ValueError: for another choice, or a budget that is missing, out of range or of no use.
        """
        if not callable(choice) and choice not in CHOICES:
            raise ValueError(f"choice must be one of {', '.join(CHOICES)} or a function, got {choice!r}")
        if budget is not None and not 0 <= budget <= 1:
            raise ValueError(f"budget is the share of fine regions, 0 to 1, got {budget}")
        if budget is None and choice in ("random", "centre"):
            raise ValueError(f"choice {choice!r} needs a budget, the share of regions that it makes fine")
        if budget is not None and choice not in ("gate", "random", "centre"):
            raise ValueError(f"budget {budget} has no use with choice {choice!r}, which says itself how many are fine")
        self.choice = choice
        self.budget = budget

    def set_grid(self, grid: tuple[int, int]) -> None:
        """Resize the table of positions to another number of rows and columns of regions, for good."""
        if grid != self.grid:
            table = resize_regions(self.pos_embed.detach(), self.grid, grid)
            self.pos_embed = nn.Parameter(table, requires_grad=self.pos_embed.requires_grad)
            self.grid = grid

    def logits(self, x: Tensor, grid: tuple[int, int], detail: Optional[Tensor] = None) -> Tensor:
        """Score regions ``[B, R, C]``, embeddings of coarse patches: ``[B, R]``, float32 or wider; 0 is the border.

        Raises:
            ValueError: for a gate that is told of detail, and is not.
        """
        x = self.norm(x) + resize_regions(self.pos_embed, self.grid, grid)
        if self.detail_embed is not None:
            if detail is None:
                raise ValueError("a gate with detail=True needs the detail that regions lose, [B, R], got none")
            x = x + detail.to(x.dtype).unsqueeze(-1) * self.detail_embed
        logits = self.mlp(x).squeeze(-1)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def relax(self, logits: Tensor) -> Tensor:
        """Return m of logits ``[B, R]``, with noise in training."""
        if self.training and self.noise:
            logits = logits + self.noise * torch.logit(torch.rand_like(logits), eps=1e-6)
        return torch.sigmoid(logits / self.temperature)

    def forward(self, x: Tensor, grid: tuple[int, int], detail: Optional[Tensor] = None) -> RegionChoice:
        """Choose for regions ``[B, R, C]``, embeddings of coarse patches in a grid of so many rows and columns.

        ``detail`` ``[B, R]`` is for a gate that is told of it.

        Raises:
            ValueError: if a policy returns something else than a choice, or detail is missing.
        """
        found = self._choose(x, grid, detail)
        self.last.probability, self.last.coarse, self.last.grid = found.probability, found.coarse, grid
        return found

    def _choose(self, x: Tensor, grid: tuple[int, int], detail: Optional[Tensor]) -> RegionChoice:
        batch, regions = x.shape[0], grid[0] * grid[1]
        dtype = torch.promote_types(x.dtype, torch.float32)
        num_fine = None if self.budget is None else round(self.budget * regions)
        if self.choice == "gate":
            return self._choose_by_gate(x, grid, detail, num_fine)
        if callable(self.choice):
            coarse = self.choice(batch, grid, x.device)
            if coarse.shape != (batch, regions) or coarse.dtype != torch.bool:
                raise ValueError(
                    f"a choice must be bool of shape {(batch, regions)}, got {coarse.dtype} of {tuple(coarse.shape)}"
                )
        elif self.choice == "random":
            assert num_fine is not None
            coarse = all_but_lowest(torch.rand(batch, regions, device=x.device), num_fine)
        elif self.choice == "centre":
            assert num_fine is not None
            coarse = all_but_lowest(distances_from_centre(grid, x.device), num_fine).expand(batch, -1)
        else:
            num_fine = regions if self.choice == "fine" else 0
            coarse = torch.full((batch, regions), self.choice == "coarse", device=x.device)
        return RegionChoice(coarse, coarse.to(dtype), None, num_fine, grid)

    def _choose_by_gate(
        self, x: Tensor, grid: tuple[int, int], detail: Optional[Tensor], num_fine: Optional[int]
    ) -> RegionChoice:
        share = self.share if self.training else None
        # What predicts gains learns from them alone, and the embedding of patches from the task alone; so does it where
        # the gate itself is to stay as it is.
        alone = share is not None or not any(parameter.requires_grad for parameter in self.parameters())
        logits = self.logits(x.detach() if alone else x, grid, detail)
        probability = self.relax(logits)
        if num_fine is not None:
            coarse = all_but_lowest(probability.detach(), num_fine)
        elif share is None:
            coarse = probability > 0.5
        else:
            # Not torch.quantile, at which torch 2.11 breaks a compiled graph on a CPU.
            in_order = probability.detach().flatten().sort().values
            coarse = probability > in_order[max(round(share * len(in_order)), 1) - 1]
        if not self.training or not logits.requires_grad:
            return RegionChoice(coarse, probability, None, num_fine, grid)
        if share is None:
            straight = coarse.to(probability.dtype) + (probability - probability.detach())
            return RegionChoice(coarse, probability, bound_gradient(straight, GRADIENT_BOUND), num_fine, grid)
        # Only the bias learns where the border is.
        last: Any = self.mlp[-1]
        probability = torch.sigmoid((logits.detach() + last.bias - last.bias.detach()) / self.temperature)
        return RegionChoice(coarse, probability, predict_gain(logits, coarse, GRADIENT_BOUND), num_fine, grid)

    def extra_repr(self) -> str:
        """Name the dials."""
        return f"choice={self.choice!r}, budget={self.budget}, temperature={self.temperature}, noise={self.noise}"


# A leaf for torch.fx. As a decorator it would hide the class from type checkers.
register_notrace_module(MixedScaleGate)


def resize_regions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize positions ``[1, R, C]`` from one grid of regions to another, linearly."""
    if old == new:
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32)).transpose(1, 2).unflatten(2, old)
    return F.interpolate(wide, size=new, mode="bilinear").flatten(2).transpose(1, 2).to(table.dtype).contiguous()


def all_but_lowest(scores: Tensor, count: int) -> Tensor:
    """Tell which of ``[B, R]`` are not among the so many lowest of their row; of equal ones the first are lower."""
    order = torch.argsort(scores, dim=1, stable=True)
    return torch.ones_like(scores, dtype=torch.bool).scatter(1, order[:, :count], False)


def distances_from_centre(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return the squared distance of each region's centre from that of the image, ``[1, R]``, sides of a region."""
    rows, columns = (torch.arange(side, device=device) - (side - 1) / 2 for side in grid)
    return (rows.square()[:, None] + columns.square()[None, :]).view(1, -1)
