"""Time a transformer on tokens of two scales beside timm's plain one, of the same weights, once outputs are right."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Optional

import timm
import torch
from torch import Tensor

from gatedvision.benchmark.correctness import check_outputs
from gatedvision.benchmark.report import DTYPES, Cell, Report, current_device
from gatedvision.benchmark.steps import autocast_to, compiled, training_step
from gatedvision.benchmark.timing import Spread, note, time_call
from gatedvision.layers.token_packing import resolve_form
from gatedvision.models.msvit import MixedScaleTokens

PACKINGS = ("padded", "varlen", "jagged", "flex", "dense", "budget")
# Those whose sizes follow from shapes alone, so that compilers and CUDA graphs can hold them.
STATIC = ("dense", "budget")
# Root mean square of the error of the logits, relative to their size, through a whole network.
LIMITS = {torch.bfloat16: 3e-2, torch.float16: 1e-2, torch.float32: 1e-5}
CHECKED_IMAGES = 8


def benchmark_mixed_scale(
    size: str = "small",
    coarse_shares: Sequence[float] = (0.5, 0.9),
    packings: Sequence[str] = ("padded", "varlen", "jagged", "flex", "budget"),
    batch_size: int = 256,
    img_size: int = 224,
    dtype: str = "bf16",
    mode: str = "both",
    compile: str | None = None,
    seconds: float = 3.0,
) -> Report:
    """Time ``msvit_*`` with a given share of coarse regions, in each form of packing, beside ``vit_*_patch16_224``.

    The gate chooses, by a threshold that gives the share over the batch; images differ in their number of tokens, but
    for ``"budget"``, where each has the same. Inference runs in ``dtype`` throughout, training under autocast to it on
    float32 weights. The choice's cost is what making rows of tokens takes beyond embedding all fine patches as this
    model does, in per cent of a forward pass. With ``compile`` the plain model, packings of static shape and training,
    which then trims no tokens, are timed compiled, too, beside the compiled plain model.

    Args:
        size: ``"tiny"``, ``"small"`` or ``"base"``.
        coarse_shares: shares of coarse regions, 0 to 1.
        packings: some of ``PACKINGS``; one that cannot run here is left out with a line on stderr.
        batch_size: images per step.
        img_size: side of an image, pixels.
        dtype: ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        mode: ``"inference"``, ``"training"`` or ``"both"``; a training step is forward pass, backward pass and AdamW.
        compile: mode of ``torch.compile``, such as ``"reduce-overhead"``, or nothing.
        seconds: time to spend on each measurement.

    Raises:
        ValueError: an argument is out of range, or an output is wrong.
    """
    unknown = [packing for packing in packings if packing not in PACKINGS]
    if unknown or not all(0 <= share <= 1 for share in coarse_shares):
        raise ValueError(f"packings are {', '.join(PACKINGS)} and shares 0 to 1, got {unknown or list(coarse_shares)}")
    if min(batch_size, img_size) < 1 or seconds <= 0:
        raise ValueError(f"sizes and seconds must be positive, got {batch_size}, {img_size} and {seconds}")
    torch.manual_seed(0)
    device = current_device()
    plain: Any = timm.create_model(f"vit_{size}_patch16_224", img_size=img_size).to(device)
    model: Any = timm.create_model(f"msvit_{size}", img_size=img_size).to(device)
    model.load_state_dict(plain.state_dict(), strict=False)
    # As drawn, the classifier is zero or nearly so.
    torch.nn.init.normal_(plain.head.weight, std=0.05)
    model.head.load_state_dict(plain.head.state_dict())
    images = torch.randn(batch_size, 3, img_size, img_size, device=device)
    rows: list[dict[str, Any]] = []
    common = (plain.eval(), model.eval(), images, DTYPES[dtype], coarse_shares)
    for form in dict.fromkeys([None, compile]):
        if mode != "training":
            held = [packing for packing in packings if form is None or packing in STATIC]
            rows += _inference_rows(*common, held, form, seconds)
        if mode != "inference":
            rows += _training_rows(*common, form, seconds)
    return Report(f"{size}, {dtype}, batch {batch_size}, {img_size} x {img_size}", rows)


def set_coarse_share(model: MixedScaleTokens, images: Tensor, share: float, dtype: torch.dtype) -> None:
    """Move the gate's threshold so that it makes this share of the regions of these images coarse."""
    model.set_choice("gate")
    model.set_packing("auto")
    bias: Any = model.gate.mlp[-1].bias
    # Saturated probabilities have no order, so the logits are looked at, and moved to the middle first.
    logits: list[Tensor] = []
    hook = model.gate.mlp.register_forward_hook(lambda module, inputs, output: logits.append(output.float()))
    with torch.no_grad(), autocast_to(dtype, images.device):
        bias.zero_()
        for part in images.split(32):
            model.tokenize(part)
    hook.remove()
    ordered = torch.cat(logits).flatten().sort().values
    border = round((1 - share) * len(ordered))
    edges = torch.cat([ordered[:1] - 1, ordered, ordered[-1:] + 1])
    with torch.no_grad():
        bias.fill_(-(edges[border] + edges[border + 1]) / 2)


def _inference_rows(
    plain: Any,
    model: Any,
    images: Tensor,
    dtype: torch.dtype,
    shares: Sequence[float],
    packings: Sequence[str],
    compile: str | None,
    seconds: float,
) -> list[dict[str, Any]]:
    plain, model = (copy.deepcopy(network).to(dtype) for network in (plain, model))
    images = images.to(dtype)

    def time_of(call: Callable[[Tensor], Any]) -> Spread:
        torch.compiler.reset()
        run = compiled(call, compile)
        with torch.inference_mode():
            return time_call(lambda: run(images), images.device, seconds)

    model.set_choice("fine")
    check_output("all fine regions", model, plain, images[:CHECKED_IMAGES], dtype)
    base = time_of(plain)
    embedding = time_of(lambda x: plain._pos_embed(model.embed_patches(x)))
    tokens = plain.patch_embed.num_patches
    gmacs = model.macs(tokens).item() / 1e9
    rows = [_row("plain", "inference", compile, None, "", base, base, len(images), tokens, gmacs)]
    for share in shares:
        set_coarse_share(model, images, share, dtype)
        for packing in packings:
            if packing == "budget":
                model.set_choice("gate", 1 - share)
                model.set_packing("auto")
            else:
                model.set_choice("gate")
                model.set_packing(packing)
            try:
                resolve_form(model.packing, images)
            except ValueError as obstacle:
                note(f"packing {packing}", obstacle)
                continue
            try:
                error = check_output(packing, model, None, images[:CHECKED_IMAGES], dtype)
                time = time_of(model)
                making = time_of(lambda x: model.tokenize(x)[0])
            except (RuntimeError, NotImplementedError, ImportError) as failure:
                note(f"packing {packing}", failure)
                continue
            with torch.inference_mode():
                model(images)
            counts = model.token_counts.double()
            cost = model.macs(counts.cpu(), model.last.grid).double().mean().item() / 1e9
            row = _row(
                "msvit", "inference", compile, share, packing, time, base, len(images), counts.mean().item(), cost
            )
            row["choice (%)"] = 100 * (making.median - embedding.median) / time.median
            rows.append({**row, "output error": error})
    return rows


def _training_rows(
    plain: Any,
    model: Any,
    images: Tensor,
    dtype: torch.dtype,
    shares: Sequence[float],
    compile: str | None,
    seconds: float,
) -> list[dict[str, Any]]:
    def time_of(network: Any) -> Spread:
        torch.compiler.reset()
        return time_call(training_step(network, [images], dtype, compile), images.device, seconds)

    base = time_of(copy.deepcopy(plain))
    tokens = plain.patch_embed.num_patches
    rows = [_row("plain", "training", compile, None, "", base, base, len(images), tokens, None)]
    for share in shares:
        # Compilers trim nothing.
        for spare in (1.0, model.spare) if compile is None else (1.0,):
            network = copy.deepcopy(model)
            network.set_choice("gate")
            set_coarse_share(network, images, share, dtype)
            network.spare = spare
            time = time_of(network)
            counts = network.token_counts.double().mean().item()
            name = "all tokens" if spare == 1 else f"trimmed, spare {spare:g}"
            rows.append(_row("msvit", "training", compile, share, name, time, base, len(images), counts, None))
    return rows


def _row(
    name: str,
    mode: str,
    compile: str | None,
    share: Optional[float],
    packing: str,
    time: Spread,
    base: Spread,
    images: int,
    tokens: float,
    gmacs: Optional[float],
) -> dict[str, Cell]:
    return {
        "model": name,
        "mode": mode,
        "form": compile or "eager",
        "coarse": share,
        "packing": packing,
        "images/s (20–80 %)": time.rate(images),
        "times plain": base.median / time.median,
        "choice (%)": None,
        "tokens": float(tokens),
        "GMACs": gmacs,
        "output error": None,
    }


@torch.inference_mode()
def check_output(name: str, model: Any, plain: Any, images: Tensor, dtype: torch.dtype) -> float:
    """Compare logits with those of the same choice in float64, of all tokens under a mask, or of the plain model.

    Args:
        name: what is checked, for the message.
        model: the model, in evaluation.
        plain: the plain model, or ``None``.
        images: a few images, in the dtype of the model.
        dtype: theirs, by which the limit goes.

    Returns:
        The relative error.

    Raises:
        ValueError: it is above the limit of the dtype.
    """
    actual = model(images)
    if plain is None:
        coarse = model.last.coarse
        wide = copy.deepcopy(model).double()
        wide.set_choice(lambda batch, grid, device: coarse)
        wide.set_packing("dense")
    else:
        wide = copy.deepcopy(plain).double()
    return check_outputs(name, [actual], [wide(images.double())], LIMITS[dtype])
