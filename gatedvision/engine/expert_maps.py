"""Pictures of which experts see which classes and patches: a part of the library side of ``tools/visualize.py``."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from gatedvision.engine.amp import autocast
from gatedvision.engine.chosen_images import choose_images
from gatedvision.engine.trained_model import TrainedModel, load_trained
from gatedvision.layers.moe import SoftMoeMlp
from gatedvision.layers.moe_routers import TopKRouter
from gatedvision.models.vmoe import VMoE
from gatedvision.tasks._attention_picture import draw_attention_grid
from gatedvision.tasks._expert_picture import draw_shares, redden_dropped
from gatedvision.tasks._pixels import to_bytes

_LONGEST = 448


@torch.inference_mode()
def draw_expert_maps(
    config: Path,
    checkpoint: Path,
    out: Path | None = None,
    images: int = 4,
    names: Sequence[str] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    device: str | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Draw two pictures of the test data: which experts the tokens of a class go to, and which patches are dropped.

    The first has a table for each block with experts, of all test data: a class's row glows where the share of its
    choices that an expert gets is high. The second, beside it and called ``..._patches``, has a row for each image:
    patches turn red by the share of their choices that got no slot. Its images are routed together, in groups as the
    model makes them.

    Args:
        config: config file of the run.
        checkpoint: its checkpoint, or its work directory, meaning the last one.
        out: the first picture; ``experts.png`` beside the checkpoint by default.
        images: how many images the second has, spread over the test data.
        names: these images instead, by the names of their files without the ending.
        weights: the moving average of the weights where there is one, or the weights in training.
        device: such as ``"cpu"``; the GPU where there is one by default.
        cfg_options: settings that replace those of the config, by dotted name; for other slots, for example,
            ``model.backbone.eval_capacity_factor`` and ``model.backbone.eval_priority``.

    Returns:
        For each such block its number as ``block``; the shares of all choices that the ``busiest`` and the ``idlest``
        expert get; how many ``bits`` the expert of a choice tells about its class; and the share of choices of the
        drawn images that are ``kept``.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the model.
        ValueError: the model routes nothing, or there are no such images.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    trained = load_trained(config, checkpoint, weights, device, cfg_options)
    task, backbone = trained.task, getattr(trained.task, "backbone", None)
    if not isinstance(backbone, VMoE) or any(isinstance(x, SoftMoeMlp) for _, x in backbone.expert_layers()):
        raise ValueError(f"{config} sends no tokens to experts: that do classifiers by V-MoE, soft mixtures aside")
    backbone.keep_routing()
    dataset = trained.test_data()
    chosen = choose_images(dataset, images, names)
    with autocast(trained.cfg.get("amp")):
        tables = _count_choices(trained, dataset)
        inputs = torch.stack([dataset[index]["inputs"] for _, index in chosen]).to(trained.device)
        task(inputs)
    path = out or trained.checkpoint.parent / "experts.png"
    patches = path.with_name(f"{path.stem}_patches{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw_tables(tables, dataset.metainfo["classes"]).save(path)
    _draw_patches(task, inputs, [name for name, _ in chosen]).save(patches)
    found = []
    for block, layer in backbone.expert_layers():
        assert layer.last.routing is not None
        kept = (layer.last.routing.slot_of_choice >= 0).double().mean().item()
        found.append({"block": block, **_describe(tables[block]), "kept": kept})
        print(
            "block {block}: an expert gets {idlest:.1%} to {busiest:.1%} of the choices and tells {bits:.3f} bits of "
            "the class; {kept:.1%} of the choices of these images have a slot".format(**found[-1])
        )
    print(f"drew '{path}', {len(found)} blocks, and '{patches}', {len(chosen)} images, of '{trained.checkpoint}'")
    return found


def _count_choices(trained: TrainedModel, dataset: Any) -> dict[int, Tensor]:
    """Count the choices of all test data for each block with experts: ``[classes, experts]``."""
    task, backbone = trained.task, trained.task.backbone
    loader = trained.test_loader(dataset)
    tables: dict[int, Tensor] = {}
    for batch in loader:
        labels = batch["labels"].to(trained.device)
        task(batch["inputs"].to(trained.device))
        for block, layer in backbone.expert_layers():
            routing, num_experts = layer.last.routing, layer.router.num_experts
            cells = labels.repeat_interleave(len(routing.experts) // len(labels)).unsqueeze(1) * num_experts
            cells = cells + routing.experts
            if not isinstance(layer.router, TopKRouter):
                # Every expert is listed for every token, whether it chose it or not.
                cells = cells[routing.slot_of_choice >= 0]
            counts = cells.flatten().bincount(minlength=task.num_classes * num_experts)
            tables[block] = tables.get(block, 0) + counts.view(-1, num_experts).cpu()
    return tables


def _describe(table: Tensor) -> dict[str, float]:
    """Return the shares of the busiest and the idlest expert, and the mutual information of expert and class."""
    joint = table.double() / table.sum()
    experts, classes = joint.sum(0), joint.sum(1, keepdim=True)
    bits = torch.xlogy(joint, joint / (experts * classes).clamp(min=1e-300)).sum().item() / math.log(2)
    return {"busiest": experts.amax().item(), "idlest": experts.amin().item(), "bits": bits}


def _draw_tables(tables: Mapping[int, Tensor], classes: Sequence[str]) -> Image.Image:
    cells = []
    for block, table in tables.items():
        shares = table.double() / table.sum(1, keepdim=True).clamp(min=1)
        cells.append(
            (f"block {block}, {table.shape[1]} experts\n0 to {shares.amax():.0%}", draw_shares(shares, classes))
        )
    return draw_attention_grid([cells], max(cells[0][1].size))


def _draw_patches(task: Any, inputs: Tensor, names: Sequence[str]) -> Image.Image:
    backbone = task.backbone
    grid = backbone.patch_embed.dynamic_feat_size(tuple(inputs.shape[2:]))
    kept = {}
    for block, layer in backbone.expert_layers():
        has_slot = (layer.last.routing.slot_of_choice >= 0).float()
        # A token that any expert chose is kept; of its own choices, all may be.
        has_slot = has_slot.mean(1) if isinstance(layer.router, TopKRouter) else has_slot.amax(1)
        # Members of an ensemble are the fastest.
        by_token = has_slot.view(len(inputs), -1, backbone.num_members).mean(2)
        kept[block] = by_token[:, backbone.num_prefix_tokens :].unflatten(1, grid)
    rows = []
    for index, (image, name) in enumerate(zip(inputs.cpu(), names, strict=True)):
        pixels = to_bytes(image, task.mean, task.std)
        row = [(name[-30:], redden_dropped(pixels, torch.ones(grid), backbone.patch_embed.patch_size))]
        for block, shares in kept.items():
            share = shares[index].cpu()
            picture = redden_dropped(pixels, share, backbone.patch_embed.patch_size)
            row.append((f"block {block}\n{share.mean():.0%} kept", picture))
        rows.append(row)
    return draw_attention_grid(rows, min(_LONGEST, max(rows[0][0][1].size)))
