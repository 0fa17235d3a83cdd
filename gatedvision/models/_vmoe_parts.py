"""Parts of V-MoE beside experts: positions, patches, and the blocks of which some have experts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, PatchEmbed, register_notrace_function
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gatedvision.layers.convert_layers import convert_layers
from gatedvision.layers.image_conv import ImageConv
from gatedvision.layers.linear import Linear
from gatedvision.layers.moe import ExpertMlp, MoeMlp, SoftMoeMlp
from gatedvision.layers.moe_routers import ExpertChoiceRouter, SoftRouter, TopKRouter

ROUTINGS = ("top_k", "expert_choice", "soft")


@register_notrace_function
def resize_positions_aligned(
    table: Tensor, old: tuple[int, int], height: int, width: int, num_prefix: int = 1
) -> Tensor:
    """Resize positions to another grid, linearly between corners that stay; as published for fine-tuning.

    Args:
        table: ``[1, num_prefix + old[0] * old[1], C]``; its first rows are not of the grid and are copied.
        old: rows and columns of the grid.
        height: rows wanted.
        width: columns wanted.
        num_prefix: rows of the table before those of the grid.

    Returns:
        ``[1, num_prefix + height * width, C]``, computed in float32 or wider.
    """
    if old[0] == height and old[1] == width:
        return table
    wide = table[:, num_prefix:].to(torch.promote_types(table.dtype, torch.float32))
    grid = wide.transpose(1, 2).unflatten(2, (old[0], old[1]))
    grid = F.interpolate(grid, size=[height, width], mode="bilinear", align_corners=True)
    return torch.cat([table[:, :num_prefix], grid.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


@register_notrace_function
def check_size(x: Tensor, height: int, width: int) -> Tensor:
    """Return images that hold a patch of this height and width; a leaf for torch.fx.

    Raises:
        ValueError: if they are smaller.
    """
    if x.shape[2] < height or x.shape[3] < width:
        raise ValueError(f"images of {x.shape[2]}x{x.shape[3]} pixels are smaller than a patch of {height}x{width}")
    return x


class CroppingPatchEmbed(PatchEmbed):
    """timm's patch embedding, which leaves out what is over at the right and at the bottom, as published.

    Args:
        *args: of timm's embedding.
        **kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        convert_layers(self, nn.Conv2d, ImageConv)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, 3, H, W]`` of any size to ``[B, rows, columns, C]``."""
        return self.norm(self.proj(check_size(x, *self.proj.kernel_size)).permute(0, 2, 3, 1))


class MemberBlock(Block):
    """The block with which an ensemble begins: repeats every image for each of its members.

    Args:
        num_members: members of the ensemble.
        **kwargs: of timm's block.
    """

    def __init__(self, num_members: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_members = num_members

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map ``[B, N, C]`` to ``[B * M, N, C]``; row b * M + m is member m of image b."""
        return super().forward(x.repeat_interleave(self.num_members, 0), *args, **kwargs)


class BlockMaker:
    """Makes timm's blocks, some of them with experts; stands where timm expects the class of a block.

    Args:
        depth: blocks of the network.
        expert_blocks: those with experts, counted from 0.
        routing: ``"top_k"``, ``"expert_choice"`` or ``"soft"``.
        num_members: members of an ensemble.
        router: arguments of every router but the soft one, ``num_experts`` among them.
        choice: arguments of the router by which tokens choose.
        num_slots: slots of an expert, for the soft router.
        experts: arguments of the experts.

    Raises:
        ValueError: if an argument is out of range or does not go with the others.
    """

    def __init__(
        self,
        depth: int,
        expert_blocks: Sequence[int],
        routing: str,
        num_members: int,
        router: Mapping[str, Any],
        choice: Mapping[str, Any],
        num_slots: int,
        experts: Mapping[str, Any],
    ) -> None:
        self.expert_blocks = sorted(set(expert_blocks))
        if not self.expert_blocks or not 0 <= self.expert_blocks[0] <= self.expert_blocks[-1] < depth:
            raise ValueError(f"expert_blocks must be among 0 to {depth - 1}, the blocks, got {self.expert_blocks}")
        if routing not in ROUTINGS:
            raise ValueError(f"routing must be one of {', '.join(ROUTINGS)}, got {routing!r}")
        batch_priority = {choice["priority"], choice["eval_priority"]} - {"vanilla", None}
        if routing != "top_k" and (num_members != 1 or batch_priority):
            raise ValueError(f"num_members and priority belong to routing 'top_k', got routing {routing!r}")
        self.routing = routing
        self.num_members = num_members
        self.router = router
        self.choice = choice
        self.num_slots = num_slots
        self.experts = experts

    def __call__(self, depth: int, **kwargs: Any) -> Block:
        """Make the block of a depth, with timm's other arguments."""
        block = self._make_block(depth, **kwargs)
        convert_layers(block, nn.Linear, Linear)
        return block

    def _make_block(self, depth: int, mlp_layer: Any, **kwargs: Any) -> Block:
        if depth not in self.expert_blocks:
            return Block(mlp_layer=Mlp, depth=depth, **kwargs)
        kwargs |= {"mlp_layer": self.make_experts, "depth": depth}
        if self.num_members > 1 and depth == self.expert_blocks[0]:
            return MemberBlock(self.num_members, **kwargs)
        return Block(**kwargs)

    def make_experts(self, in_features: int, hidden_features: int, device: Any, dtype: Any, **_: Any) -> nn.Module:
        """Make experts where timm expects the class of a perceptron; its other arguments are of no account."""
        dd = {"device": device, "dtype": dtype}
        num_experts = self.router["num_experts"]
        experts = ExpertMlp(in_features, hidden_features, num_experts, **self.experts, **dd)
        if self.routing == "soft":
            return SoftMoeMlp(SoftRouter(in_features, num_experts, self.num_slots, **dd), experts)
        if self.routing == "expert_choice":
            return MoeMlp(ExpertChoiceRouter(in_features, **self.router, **dd), experts)
        router = TopKRouter(in_features, **self.router, **self.choice, num_members=self.num_members, **dd)
        return MoeMlp(router, experts)


def check_pooling(global_pool: str, class_token: bool) -> None:
    """Check timm's name of the pooling.

    Raises:
        ValueError: if it is another one, or there is nothing to pool by it.
    """
    if global_pool not in ("token", "avg", "avgmax", "max", ""):
        raise ValueError(f"global_pool must be 'token', 'avg', 'avgmax', 'max' or '', got {global_pool!r}")
    if global_pool == "token" and not class_token:
        raise ValueError("global_pool 'token' needs class_token=True; take 'avg' without it")
