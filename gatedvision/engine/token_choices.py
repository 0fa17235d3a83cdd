"""Pictures of which regions a gate cuts into fine tokens: a part of the library side of ``tools/visualize.py``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from gatedvision.engine.chosen_images import choose_images
from gatedvision.engine.trained_model import load_trained
from gatedvision.tasks._attention_picture import draw_attention_grid
from gatedvision.tasks._choice_picture import draw_choice
from gatedvision.tasks._pixels import to_bytes

_COLUMNS = 8
_LONGEST = 448


@torch.inference_mode()
def draw_token_choices(
    config: Path,
    checkpoint: Path,
    out: Path | None = None,
    images: int = 4,
    names: Sequence[str] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    device: str | None = None,
    cfg_options: dict[str, Any] | None = None,
) -> list[dict[str, float]]:
    """Draw images of the test data and below each the tokens that MSViT takes of it, from the cheapest image on.

    Regions that stay one coarse token are dark, the others cut up by the grid of their fine tokens.

    Args:
        config: config file of the run.
        checkpoint: its checkpoint, or its work directory, meaning the last one.
        out: the picture; ``tokens.png`` beside the checkpoint by default.
        images: how many images, spread over the test data.
        names: these images instead, by the names of their files without the ending.
        weights: the moving average of the weights where there is one, or the weights in training.
        device: such as ``"cpu"``; the GPU where there is one by default.
        cfg_options: settings that replace those of the config, by dotted name.

    Returns:
        What each image costs, as the backbone's ``image_costs()`` names it, in the order of the picture.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the model.
        ValueError: the model has no gate of tokens, or there are no such images.
    """
    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    trained = load_trained(config, checkpoint, weights, device, cfg_options)
    task, backbone = trained.task, trained.task.backbone
    dataset = trained.test_data()
    drawn = []
    for name, index in choose_images(dataset, images, names):
        image = dataset[index]["inputs"]
        task(image[None].to(trained.device))
        costs = {key: float(value) for key, value in backbone.image_costs().items()}
        caption = f"{name[-30:]}\n{100 * costs['fine_share']:.0f} % fine, {costs['GMACs']:.3g} GMACs"
        drawn.append((costs, caption, _draw(image.cpu(), task, backbone)))
    drawn.sort(key=lambda entry: entry[0]["GMACs"])
    cells = [(caption, picture) for _, caption, picture in drawn]
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    path = out or trained.checkpoint.parent / "tokens.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    longest = min(_LONGEST, max(max(picture.size) for _, picture in cells))
    draw_attention_grid(rows, longest).save(path)
    for name in drawn[0][0]:
        values = [costs[name] for costs, *_ in drawn]
        print(f"{name}: {values[0]:.3g} to {values[-1]:.3g}, mean {sum(values) / len(values):.3g}")
    print(f"drew '{path}': {len(drawn)} images, the cheapest first, of '{trained.checkpoint}'")
    return [costs for costs, *_ in drawn]


def _draw(image: Tensor, task: Any, backbone: Any) -> Image.Image:
    coarse = backbone.last.coarse[0].view(*backbone.last.grid)
    return draw_choice(to_bytes(image, task.mean, task.std), coarse, backbone.coarse, backbone.patch_size)
