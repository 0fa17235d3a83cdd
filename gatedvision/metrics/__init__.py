"""Metrics: numbers computed from the predictions on a whole dataset."""

from gatedvision.metrics.accuracy import Accuracy

__all__ = ["Accuracy"]
