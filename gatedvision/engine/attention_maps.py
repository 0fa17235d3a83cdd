"""Pictures of what the attention gates of a trained network let through: the library side of ``tools/visualize.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from gatedvision.engine.chosen_images import choose_images
from gatedvision.engine.launch import load_config
from gatedvision.engine.trained_model import load_trained
from gatedvision.tasks._attention_picture import draw_attention_grid, mean_by_region, overlay_heat
from gatedvision.tasks._label_picture import draw_labels
from gatedvision.tasks.medical_segmentation import MedicalSegmentation, middle_slice, to_picture

_REGIONS = ("inside", "border", "outside")


def draw_attention_maps(
    config: Path,
    checkpoint: Path,
    out: Path | None = None,
    images: int = 4,
    names: Sequence[str] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    device: str | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Draw the coefficients of every attention gate over images of the test data, and print where they are high.

    A row of the picture is an image: with its labels, what was predicted, and each gate from coarse to fine, between
    its least and greatest coefficient, which stand above. Of a volume it is the middle slice along the last axis.

    Args:
        config: config file of the run.
        checkpoint: its checkpoint, or its work directory, meaning the last one.
        out: the picture; ``attention.png`` beside the checkpoint by default.
        images: how many images, spread over the test data.
        names: these images instead, by the names of their files without the ending.
        weights: the moving average of the weights where there is one, or the weights in training.
        device: such as ``"cpu"``; the GPU where there is one by default.
        cfg_options: settings that replace those of the config, by dotted name.

    Returns:
        For each gate the mean coefficients ``inside`` of objects, along their ``border`` (a pixel on either side) and
        ``outside``, over these images; NaN where there are no such pixels.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the model.
        ValueError: the model has no attention gates, or there are no such images.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    kind = load_config(config, cfg_options=cfg_options).model.type
    if kind is not MedicalSegmentation:
        raise ValueError(f"{config} is no MedicalSegmentation but a {kind.__name__}; only that one has gates")
    trained = load_trained(config, checkpoint, weights, device, cfg_options)
    model = trained.task
    dataset = trained.test_data()
    rows, sums, counts = [], torch.zeros(()), torch.zeros(3, dtype=torch.float64)
    for _, index in choose_images(dataset, images, names):
        sample = dataset[index]
        label_map, gates = model.attend(sample["inputs"].to(trained.device))
        label_map, gates = label_map.cpu(), gates.float().cpu()
        rows.append(_draw_row(sample, label_map, gates, dataset.metainfo["classes"], model.ignore_index))
        total, count = mean_by_region(gates, sample["labels"], model.ignore_index)
        sums, counts = sums + total, counts + count
    path = out or trained.checkpoint.parent / "attention.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_attention_grid(rows).save(path)
    means: list[dict[str, float]] = [dict(zip(_REGIONS, gate, strict=True)) for gate in (sums / counts).tolist()]
    for number, gate in enumerate(means, 1):
        print(f"gate {number}: mean coefficient " + ", ".join(f"{name} {value:.3f}" for name, value in gate.items()))
    print(f"drew '{path}': {len(rows)} images, {len(means)} gates of '{trained.checkpoint}'")
    return means


def _draw_row(
    sample: dict[str, Any], label_map: Tensor, gates: Tensor, classes: Sequence[str], ignore_index: int
) -> list[tuple[str, Image.Image]]:
    axes = label_map.ndim
    image = to_picture(middle_slice(sample["inputs"], axes))
    row = [(f"{sample['name'][-30:]}\n{' x '.join(map(str, label_map.shape))}", _to_image(image))]
    for caption, labels in (("labels", sample["labels"]), ("prediction", label_map)):
        shown = middle_slice(labels, axes).long()
        picture = draw_labels(image, [torch.where(shown == 0, ignore_index, shown)], classes)
        # Without the legend, beside the other panels.
        row.append((caption, picture.crop((image.shape[2], 0, 2 * image.shape[2], image.shape[1]))))
    for number, gate in enumerate(gates, 1):
        caption = f"gate {number} of {len(gates)}\n{float(gate.amin()):.3f} to {float(gate.amax()):.3f}"
        row.append((caption, overlay_heat(image, middle_slice(gate, axes))))
    return row


def _to_image(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
