"""Pictures of what a model predicts, in training and in evaluation."""

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from gatedvision.engine.training_state import unwrap


class ShowPredictions(Hook):
    """Writes the predictions on the first images of an evaluation into a folder, as the task draws them.

    The task model has a method ``draw(image, prediction, classes)``. It gets an image ``[C, H, W]`` of the batch, the
    image's prediction, and the names of the classes (``None`` where the data have none), and returns a Pillow image.
    A picture is called by ``name`` or ``image_id`` of its prediction, else by the process and the place in its share.

    Args:
        folder: where the pictures go; by default ``pictures/epoch_<N>`` in the work directory, and
            ``pictures/test`` for the evaluation of a checkpoint.
        interval: epochs between validations with pictures.
        images: pictures each process writes; ``None`` for all.

    Raises:
        ValueError: ``interval`` or ``images`` is less than one.
    """

    def __init__(self, folder: str | Path | None = None, interval: int = 1, images: int | None = 8) -> None:
        if interval < 1 or (images is not None and images < 1):
            raise ValueError(f"interval and images must be at least 1, got interval={interval} and images={images}")
        self.folder = None if folder is None else Path(folder)
        self.interval = interval
        self.images = images
        self._drawn = 0

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin anew.

        Args:
            runner: the run.
        """
        self._drawn = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin anew.

        Args:
            runner: the run.
        """
        self._drawn = 0

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw a batch of a validation, if it is the turn of this one.

        Args:
            runner: the run.
            batch_idx: unused.
            data_batch: the batch, with ``inputs``.
            outputs: a prediction for each image.
        """
        # A model that is only validated has no epochs.
        if runner.epoch % self.interval == 0:
            folder = self.folder or Path(runner.work_dir, "pictures")
            self._draw(runner, folder / f"epoch_{runner.epoch}", runner.val_dataloader.dataset, data_batch, outputs)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Draw a batch of the evaluation of a checkpoint.

        Args:
            runner: the run.
            batch_idx: unused.
            data_batch: the batch, with ``inputs``.
            outputs: a prediction for each image.
        """
        folder = self.folder or Path(runner.work_dir, "pictures", "test")
        self._draw(runner, folder, runner.test_dataloader.dataset, data_batch, outputs)

    def _draw(self, runner: Runner, folder: Path, dataset: Any, data_batch: Any, outputs: Any) -> None:
        model = unwrap(runner.model)
        if not hasattr(model, "draw"):
            raise ValueError(f"{type(model).__name__} does not draw its predictions; leave the pictures out")
        classes = getattr(dataset, "metainfo", {}).get("classes")
        for image, prediction in zip(data_batch["inputs"], outputs, strict=True):
            if self.images is not None and self._drawn >= self.images:
                return
            name = prediction.get("name", prediction.get("image_id", f"{runner.rank}_{self._drawn:06d}"))
            path = folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            model.draw(image, prediction, classes).save(path)
            self._drawn += 1
