"""How near completed images are to the whole ones: L1, PSNR, SSIM, LPIPS and FID, also by the size of the hole."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor, nn

from gatedvision.data._files import expand_path

BINS = ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5))
# Of images that agree in all pixels it would be infinite, and with it any mean.
MAX_PSNR = 100.0


# Share of the image that was filled, metrics by name, and features of the whole image and of the completed one
# ``[2, D]``, for the Fréchet distance.
ImageResult = tuple[float, dict[str, float], Tensor | None]


class InpaintingMetrics(BaseMetric):
    """L1, PSNR, SSIM, LPIPS and FID of completed images over all their pixels, as they are saved: in 8 bits.

    All but FID are means over images. Every image counts once, however the dataset is spread over processes: the
    values of single images are gathered, and those of images that a sampler repeated to fill up the last batch are
    dropped.

    LPIPS and FID need networks whose weights cannot be shipped. Where a file is missing, that is said once, and the
    metric is left out.

    Args:
        lpips: weights of torchvision's ``alexnet``, ``vgg16`` or ``squeezenet1_1`` for ImageNet, such as
            ``alexnet-owt-7be5be79.pth`` (LPIPS's own weights come with torchmetrics); or a module that maps two
            batches of images ``[B, 3, H, W]`` in [-1, 1] to their distances. ``None`` leaves LPIPS out.
        fid: weights of torch-fidelity's Inception network, ``weights-inception-2015-12-05-6726825d.pth`` (needs ``pip
            install torch-fidelity``); or a module that maps images ``[B, 3, H, W]`` of bytes to features ``[B, D]``.
            ``None`` leaves FID out. It takes thousands of images to mean something.
        bins: shares of the image that a hole covers, from and up to, for which the metrics are reported too.

    Returns (of ``evaluate``):
        ``L1`` in percent of full scale, ``PSNR`` in dB (of an image at most 100), ``SSIM`` (Gaussian window of 11
        pixels), ``LPIPS`` and ``FID``; and for each bin that has images ``PSNR/0.20-0.30`` and so on.

    Raises:
        ValueError: a bin is empty, or a file holds other weights.
        ModuleNotFoundError: torchmetrics, or for FID torch-fidelity, is not installed.
    """

    default_prefix = ""

    def __init__(
        self,
        lpips: str | Path | nn.Module | None = None,
        fid: str | Path | nn.Module | None = None,
        bins: Sequence[Sequence[float]] = BINS,
    ) -> None:
        # "gpu" means: through the process group, whatever its device, and not through files in the current folder.
        super().__init__(collect_device="gpu")
        if any(not 0 <= low < high <= 1 for low, high in bins):
            raise ValueError(f"bins must be ranges of shares between 0 and 1, got {tuple(bins)}")
        # Rather now than after the first epoch.
        _torchmetrics()
        self.bins = tuple((low, high) for low, high in bins)
        self.lpips = _load("LPIPS", lpips, load_lpips)
        self.fid = _load("FID", fid, load_inception)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Compare the images of a batch.

        Args:
            data_batch: unused; the predictions carry their images.
            data_samples: for each image ``completed`` and ``image``, bytes ``[3, H, W]``, and ``mask`` ``[1, H, W]``,
                true in the hole.
        """
        functional = _torchmetrics()
        for sample in data_samples:
            # One at a time, so that no value depends on the batch or the process an image was in.
            both = torch.stack([sample["image"], sample["completed"]])
            image, completed = (both.float() / 255).split(1)
            error = (completed - image).double()
            psnr = functional.peak_signal_noise_ratio(completed, image, data_range=1.0)
            ssim = functional.structural_similarity_index_measure(completed, image, data_range=1.0)
            values = {"L1": 100 * float(error.abs().mean()), "PSNR": min(float(psnr), MAX_PSNR), "SSIM": float(ssim)}
            features = None
            if self.lpips is not None:
                values["LPIPS"] = float(self.lpips.to(both.device)(2 * completed - 1, 2 * image - 1))
            if self.fid is not None:
                features = self.fid.to(both.device)(both).cpu()
            self.results.append((float(sample["mask"].double().mean()), values, features))

    def compute_metrics(self, results: list[ImageResult]) -> dict[str, float]:
        """Average over the images, all of them and those of each bin.

        Args:
            results: what :meth:`process` noted for each image.

        Returns:
            Metrics by name.

        Raises:
            ValueError: there are no images.
        """
        if not results:
            raise ValueError("metrics of an empty dataset: no image was evaluated")
        metrics = self._average(results)
        for low, high in self.bins:
            inside = [result for result in results if low <= result[0] < high]
            name = f"{low:.2f}-{high:.2f}"
            metrics |= {f"{metric}/{name}": value for metric, value in self._average(inside).items()}
        return metrics

    def _average(self, results: list[ImageResult]) -> dict[str, float]:
        if not results:
            return {}
        # fsum rounds once, so the order in which the processes deliver their images does not show.
        values = {name: math.fsum(values[name] for _, values, _ in results) / len(results) for name in results[0][1]}
        # A single image has no spread.
        features = [features for *_, features in results if features is not None]
        if len(features) > 1:
            values["FID"] = frechet_distance(torch.stack(features))
        return values


def frechet_distance(features: Tensor) -> float:
    """Fréchet distance between normal distributions of the features of whole and of completed images.

    Args:
        features: ``[N, 2, D]``, of the whole image and of the completed one.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Features(features.shape[2])).set_dtype(torch.float64)
    for is_real, part in ((True, features[:, 0]), (False, features[:, 1])):
        metric.update(part, real=is_real)
    return float(metric.compute())


def load_lpips(path: Path) -> nn.Module:
    """Build LPIPS (arXiv:1801.03924) on a network of torchvision.

    Args:
        path: weights of ``alexnet``, ``vgg16`` or ``squeezenet1_1``, which are told apart by what is in the file.

    Returns:
        A module that maps two batches of images in [-1, 1] to their distances.

    Raises:
        ValueError: the file holds something else.
    """
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    weights = _read_weights(path)
    # AlexNet's name is one of VGG's, too.
    tell_tales = {"features.28.weight": "vgg", "features.12.squeeze.weight": "squeeze", "features.10.weight": "alex"}
    found: list[Any] = [net for name, net in tell_tales.items() if name in weights]
    if not found:
        raise ValueError(f"'{path}' holds no weights of torchvision's alexnet, vgg16 or squeezenet1_1 for LPIPS")
    module: Any = _NoTrainLpips(net=found[0], pnet_rand=True)
    # The layers keep their numbers in torchvision's network, behind the name of a slice of it.
    names = {name: re.sub(r"^slices?\.?\d+\.", "features.", name) for name in module.net.state_dict()}
    missing = [name for name in names.values() if name not in weights]
    if missing:
        raise ValueError(f"'{path}' lacks {missing[0]} of the network of LPIPS")
    module.net.load_state_dict({ours: weights[theirs] for ours, theirs in names.items()})
    return module


def load_inception(path: Path) -> nn.Module:
    """Build the network of FID (arXiv:1706.08500), torch-fidelity's Inception v3.

    Args:
        path: its weights.

    Returns:
        A module that maps images of bytes to features ``[B, 2048]``.

    Raises:
        ModuleNotFoundError: torch-fidelity is not installed.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(path)).inception


class _Features(nn.Module):
    """Features that pass for images, with the attribute by which torchmetrics learns how many they are."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def _load(metric: str, source: Any, build: Callable[[Path], nn.Module]) -> nn.Module | None:
    """Build the network of a metric, or say that it is left out."""
    if source is None:
        return None
    if isinstance(source, nn.Module):
        return source.eval()
    path = expand_path(source)
    if path.is_file():
        return build(path).eval()
    message = f"no {metric}: there is no file '{path}' of weights; see {metric.lower()} of InpaintingMetrics"
    print_log(message, "current", logging.WARNING)
    return None


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict.

    Raises:
        ValueError: the file is something else.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damage makes its readers raise
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"cannot read the weights '{path}': {reason or type(error).__name__}") from error
    if not isinstance(weights, dict):
        raise ValueError(f"'{path}' holds no weights by name")
    return weights


def _torchmetrics() -> Any:
    """The functions of torchmetrics.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        from torchmetrics.functional import image
    except ModuleNotFoundError as error:
        message = "inpainting is evaluated by torchmetrics: pip install 'gatedvision[inpainting]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return image
