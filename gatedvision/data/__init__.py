"""Data sets, transforms and collation.

A data set for classification yields ``dict(inputs=Tensor[C, H, W], label=int)``; :func:`collate_samples` makes the
batch ``dict(inputs=Tensor[B, C, H, W], labels=Tensor[B])`` that the task models take. One for detection yields
``dict(inputs=Tensor[3, H, W], target=dict(...))``, and :func:`collate_detections` makes lists of them. One for
segmentation yields ``dict(inputs=Tensor[3, H, W], labels=Tensor[H, W], name=str)``, which :func:`collate_label_maps`
stacks where they are of one size; of volumes the tensors have three sides, and ``spacing`` may be beside them. One for
inpainting yields ``dict(inputs=Tensor[3, H, W], mask=Tensor[1, H, W], name=str)``, which :func:`collate_inpainting`
stacks likewise.
"""

from gatedvision.data import segmentation_classes
from gatedvision.data.coco import CocoDetection, collate_detections
from gatedvision.data.coco_annotations import CocoAnnotations
from gatedvision.data.coco_shapes import ShapesDetection
from gatedvision.data.coco_transforms import RandomWindow
from gatedvision.data.collate import collate_samples
from gatedvision.data.digits import Digits
from gatedvision.data.free_form_mask import FreeFormMask
from gatedvision.data.generated_organs import GeneratedOrgans
from gatedvision.data.image_folder import ImageFolder
from gatedvision.data.image_reader import UnreadableImageError, read_image
from gatedvision.data.inpainting import (
    InpaintingFolder,
    InpaintingPairs,
    InpaintingPhotographs,
    collate_inpainting,
)
from gatedvision.data.inpainting_transforms import EnlargeToCover
from gatedvision.data.intensity import IntensityScaling
from gatedvision.data.mask_folder import MaskFolder
from gatedvision.data.medical_images import MedicalImageFolder
from gatedvision.data.patches import RandomPatch
from gatedvision.data.segmentation import SegmentationFolder, collate_label_maps
from gatedvision.data.segmentation_shapes import ShapesSegmentation
from gatedvision.data.segmentation_transforms import RandomLabelCrop, photometric_distortion
from gatedvision.data.transforms import create_transform
from gatedvision.data.volume_reader import read_volume
from gatedvision.data.volumes import VolumeFolder

__all__ = [
    "CocoAnnotations",
    "CocoDetection",
    "Digits",
    "EnlargeToCover",
    "FreeFormMask",
    "GeneratedOrgans",
    "ImageFolder",
    "InpaintingFolder",
    "InpaintingPairs",
    "InpaintingPhotographs",
    "IntensityScaling",
    "MaskFolder",
    "MedicalImageFolder",
    "RandomLabelCrop",
    "RandomPatch",
    "RandomWindow",
    "SegmentationFolder",
    "ShapesDetection",
    "ShapesSegmentation",
    "UnreadableImageError",
    "VolumeFolder",
    "collate_detections",
    "collate_inpainting",
    "collate_label_maps",
    "collate_samples",
    "create_transform",
    "photometric_distortion",
    "read_image",
    "read_volume",
    "segmentation_classes",
]
