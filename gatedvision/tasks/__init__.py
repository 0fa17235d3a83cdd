"""Task models: what a backbone is trained and evaluated for."""

from gatedvision.tasks.classification import Classification

__all__ = ["Classification"]
