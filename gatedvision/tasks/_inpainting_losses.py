"""What generator and discriminator of SN-PatchGAN minimise (arXiv:1806.03589), in float32 at least."""

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half of what real scores miss to 1, and of what those of completed images exceed -1 by, in the mean.

    Args:
        real: scores of images as they are, any shape.
        fake: scores of completed images.

    Returns:
        A scalar.
    """
    real, fake = _widen(real), _widen(fake)
    return 0.5 * F.relu(1 - real).mean() + 0.5 * F.relu(1 + fake).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """How bad the discriminator finds completed images: their mean score, negated.

    Args:
        fake: scores of completed images, any shape.

    Returns:
        A scalar.
    """
    return -_widen(fake).mean()


def l1_loss(output: Tensor, image: Tensor) -> Tensor:
    """Mean absolute difference over the whole image, hole or not.

    Args:
        output: what a stage of the generator gave ``[B, 3, H, W]``, in [-1, 1].
        image: the image, of the same shape and range.

    Returns:
        A scalar.
    """
    return (_widen(output) - _widen(image)).abs().mean()


def _widen(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
