"""What gates of a trained network let through: organs, which it finds."""

import json
import time
from pathlib import Path

from gatedvision.engine.attention_maps import draw_attention_maps
from gatedvision.engine.launch import train

ORGANS = Path(__file__).resolve().parents[2] / "configs" / "attention_unet" / "attention_unet_3d_nano_organs.py"


def test_organs_are_found_and_the_gate_marks_them(tmp_path, capsys):
    began = time.process_time()
    options = {"default_hooks.checkpoint.interval": 6, "experiment_name": "organs"}
    train(ORGANS, tmp_path, cfg_options=options)
    seconds = time.process_time() - began
    [scalars] = tmp_path.glob("*/vis_data/scalars.json")
    row = json.loads(scalars.read_text().splitlines()[-1])
    assert row["Dice"] >= 0.90
    assert min(row[f"Dice/{name}"] for name in ("large", "bright", "small")) >= 0.85
    assert row["ASD"] < 0.5
    # Of one core; it takes 35 on one of 2026.
    assert seconds < 120
    [gate] = draw_attention_maps(ORGANS, tmp_path, tmp_path / "gates.png", images=6)
    # Objects, neither borders nor what is around them.
    assert gate["inside"] > gate["border"] + 0.1 > gate["outside"] + 0.1
    assert "gate 1: mean coefficient inside 0." in capsys.readouterr().out
