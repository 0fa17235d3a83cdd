"""Task models: what a backbone is trained and evaluated for."""

from gatedvision.tasks.classification import Classification
from gatedvision.tasks.detection import Detection
from gatedvision.tasks.inpainting import Inpainting
from gatedvision.tasks.medical_segmentation import MedicalSegmentation
from gatedvision.tasks.segmentation import Segmentation

__all__ = ["Classification", "Detection", "Inpainting", "MedicalSegmentation", "Segmentation"]
