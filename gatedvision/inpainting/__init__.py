"""Fill holes in images of any size, mode and bit depth; a network does it in windows, known pixels stay as they are.

``gatedvision.inpaint`` takes arrays, PIL images and tensors, ``tools/inpaint.py`` files. Any module will do as network
that maps ``(image [B, 3, H, W] in [-1, 1], mask [B, 1, H, W], 1 = hole)`` to a pair whose second entry is the filled
image, at sides that are multiples of 8.
"""

from gatedvision.inpainting.call import inpaint
from gatedvision.inpainting.options import Options

__all__ = ["Options", "inpaint"]
