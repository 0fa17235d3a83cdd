"""Data sets, transforms and collation for image classification.

A data set yields ``dict(inputs=Tensor[C, H, W], label=int)``; :func:`collate_samples` makes the batch
``dict(inputs=Tensor[B, C, H, W], labels=Tensor[B])`` that the task models take.
"""

from gatedvision.data.collate import collate_samples
from gatedvision.data.digits import Digits
from gatedvision.data.image_folder import ImageFolder
from gatedvision.data.image_reader import UnreadableImageError, read_image
from gatedvision.data.transforms import create_transform

__all__ = ["Digits", "ImageFolder", "UnreadableImageError", "collate_samples", "create_transform", "read_image"]
