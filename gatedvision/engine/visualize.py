"""Pictures of what a trained network looks at: the library side of ``tools/visualize.py``."""

from pathlib import Path
from typing import Any

from gatedvision.engine.attention_maps import draw_attention_maps
from gatedvision.engine.expert_maps import draw_expert_maps
from gatedvision.engine.launch import load_config
from gatedvision.engine.token_choices import draw_token_choices


def visualize(config: Path, checkpoint: Path, cfg_options: dict[str, Any] | None = None, **options: Any) -> None:
    """Draw the tokens that MSViT chooses, the experts that V-MoE's tokens go to, or any other model's attention gates.

    Args:
        config: config file of the run.
        checkpoint: its checkpoint, or its work directory, meaning the last one.
        cfg_options: settings that replace those of the config, by dotted name.
        **options: see :func:`~gatedvision.engine.attention_maps.draw_attention_maps`,
            :func:`~gatedvision.engine.expert_maps.draw_expert_maps` and
            :func:`~gatedvision.engine.token_choices.draw_token_choices`.

    Raises:
        ValueError: the model has nothing to draw, or an option does not fit.
    """
    backbone = load_config(config, cfg_options=cfg_options).model.get("backbone") or {}
    families = {"msvit": draw_token_choices, "vmoe": draw_expert_maps}
    draw = families.get(str(backbone.get("model_name", "")).partition("_")[0], draw_attention_maps)
    draw(config, checkpoint, cfg_options=cfg_options, **options)
