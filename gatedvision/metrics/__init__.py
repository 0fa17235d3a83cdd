"""Metrics: numbers computed from the predictions on a whole dataset."""

from gatedvision.metrics.accuracy import Accuracy
from gatedvision.metrics.coco import CocoMetrics
from gatedvision.metrics.image_costs import ImageCosts
from gatedvision.metrics.inpainting import InpaintingMetrics
from gatedvision.metrics.medical import MedicalMetrics
from gatedvision.metrics.segmentation import SegmentationMetrics

__all__ = ["Accuracy", "CocoMetrics", "ImageCosts", "InpaintingMetrics", "MedicalMetrics", "SegmentationMetrics"]
