"""mmengine's Runner with its traps taken out.

What differs from mmengine 0.10.7: checkpoints hold tensors and plain values only, are written atomically and resume
exactly, in the middle of an epoch too; the data order and augmentation depend on the seed alone; CPUs train with
several processes; precision is ``amp = "bf16" | "fp16" | None`` everywhere; ``compile`` compiles the backbone and not
the optimizer; the learning rate is scaled by the whole batch; no environment probe that needs ``distutils``.
"""

import platform
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmengine.runner
import timm
import torch
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner.utils import set_random_seed
from mmengine.utils import get_object_from_string
from mmengine.visualization import TensorboardVisBackend, Visualizer
from torch import nn
from torch.utils.data import DataLoader

from gatedvision.engine.amp import AmpOptimWrapper
from gatedvision.engine.checkpoint_file import (
    CheckpointError,
    find_last_checkpoint,
    load_weights,
    read_checkpoint,
    select_weights,
)
from gatedvision.engine.distributed import wrap_data_parallel
from gatedvision.engine.expert_parallel import ExpertParallel
from gatedvision.engine.loops import TestLoop, TrainLoop, ValLoop
from gatedvision.engine.param_groups import ParamGroups
from gatedvision.engine.resume import resume_training
from gatedvision.engine.seeded_data import EpochBatches, SeededDataset
from gatedvision.engine.several_optimizers import Optimizers, each_optimizer, has_several
from gatedvision.engine.training_state import unwrap


class Runner(mmengine.runner.Runner):
    """Builds everything a config describes, trains and evaluates it.

    Besides mmengine's keys a config may have ``amp`` (see the module), ``compile`` (a bool, or arguments of
    ``torch.compile``), ``weights`` (``"ema"`` or ``"raw"``: which weights of ``load_from`` to take) and
    ``expert_parallel`` (over how many processes to spread experts, see :class:`ExpertParallel`).
    """

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = True, deterministic: bool = False) -> None:
        """Seed the generators of this process; ``self.seed`` is the seed of the run, the same in all processes.

        Args:
            seed: seed of the run; ``None`` draws one.
            diff_rank_seed: without effect; processes always drop and mix differently.
            deterministic: use deterministic algorithms only.
        """
        self._deterministic = deterministic
        self._seed = set_random_seed(seed, deterministic=deterministic)
        set_random_seed(self._seed + self.rank, deterministic=deterministic)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Move the model to its device and, with several processes, make it average its gradients.

        Args:
            model_wrapper_cfg: has to be ``None``.
            model: the task model.

        Returns:
            The model, wrapped if there are several processes.

        Raises:
            ValueError: a wrapper is configured, or experts cannot be spread as the config wants it.
        """
        if model_wrapper_cfg is not None:
            raise ValueError("model_wrapper_cfg is not supported: the engine wraps the model itself")
        self.experts = ExpertParallel(model, self.cfg.get("expert_parallel", 1))
        model = model.to(get_device())
        if not self.distributed:
            return revert_sync_batchnorm(model)
        # What one of several optimizers minimises reaches its own part of the model only.
        find_unused = self.cfg.get("find_unused_parameters", False) or has_several(self.cfg.get("optim_wrapper"))
        return wrap_data_parallel(model, find_unused)

    def _init_model_weights(self) -> None:
        # mmengine would give all processes the experts of the first. The rest has been made equal by the wrapper.
        if self.experts.size == 1:
            super()._init_model_weights()

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader[Any] | dict[str, Any], seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader[Any]:
        """Build a loader whose order and augmentation follow from the seed (see ``seeded_data``).

        Args:
            dataloader: a loader, or the config of one: ``dataset``, ``sampler``, ``batch_size``, ``collate_fn`` and
                arguments of torch's ``DataLoader``.
            seed: seed of the run.
            diff_rank_seed: unused; samplers share the seed.

        Returns:
            The loader.

        Raises:
            ValueError: the config lacks an entry.
        """
        if isinstance(dataloader, DataLoader):
            return dataloader
        options = dict(dataloader)
        missing = [name for name in ("dataset", "sampler", "batch_size") if name not in options]
        if missing:
            raise ValueError(f"a data loader needs {', '.join(missing)}; it has {', '.join(options)}")
        dataset, sampler = options.pop("dataset"), options.pop("sampler")
        if isinstance(dataset, dict):
            dataset = DATASETS.build(dataset)
        if isinstance(sampler, dict):
            sampler = DATA_SAMPLERS.build(sampler, default_args={"dataset": dataset, "seed": seed})
        collate = options.pop("collate_fn", None)
        if isinstance(collate, dict):
            collate_options = dict(collate)
            kind: Any = collate_options.pop("type")
            # A name, in the config that a run leaves in its work directory.
            kind = get_object_from_string(kind) if isinstance(kind, str) else kind
            collate = partial(kind, **collate_options)
        batches = EpochBatches(sampler, options.pop("batch_size"), options.pop("drop_last", False))
        # Its own generator: torch would draw the workers' seeds from the one that drop path and mixup use.
        generator = torch.Generator().manual_seed(seed or 0)
        return DataLoader(
            SeededDataset(dataset, seed or 0),
            batch_sampler=batches,
            collate_fn=collate,
            generator=generator,
            **options,
        )

    def build_train_loop(self, loop: Any) -> Any:
        """Build the training loop.

        Args:
            loop: a loop, or its config with ``max_epochs``.

        Returns:
            The loop.

        Raises:
            ValueError: the config asks for training by iterations.
        """
        if isinstance(loop, dict) and "type" not in loop:
            options = dict(loop)
            if not options.pop("by_epoch", True):
                raise ValueError("train_cfg: training is by epochs, so give by_epoch=True and max_epochs")
            loop = {"type": TrainLoop, **options}
        return _with_fitting_data(super().build_train_loop(loop))

    def build_val_loop(self, loop: Any) -> Any:
        """Build the validation loop.

        Args:
            loop: a loop or its config.

        Returns:
            The loop.
        """
        loop = super().build_val_loop({"type": ValLoop, **loop} if isinstance(loop, dict) else loop)
        return _with_fitting_data(loop)

    def build_test_loop(self, loop: Any) -> Any:
        """Build the evaluation loop.

        Args:
            loop: a loop or its config.

        Returns:
            The loop.
        """
        loop = super().build_test_loop({"type": TestLoop, **loop} if isinstance(loop, dict) else loop)
        return _with_fitting_data(loop)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer, in the precision of the config and with two groups of parameters.

        Args:
            optim_wrapper: a wrapper or its config; or, for several optimizers, a config for each part of the model
                that has its own, under the part's name.

        Returns:
            The wrapper.

        Raises:
            ValueError: the model has no part of such a name, or its experts cannot be trained in this precision.
        """
        if isinstance(optim_wrapper, dict) and has_several(optim_wrapper):
            return Optimizers(**{name: self._build_part(name, config) for name, config in optim_wrapper.items()})
        if isinstance(optim_wrapper, dict):
            defaults = {"type": AmpOptimWrapper, "constructor": ParamGroups}
            optim_wrapper = {**defaults, **optim_wrapper}
            if optim_wrapper["type"] is AmpOptimWrapper:
                optim_wrapper["amp"] = self.cfg.get("amp")
        optim_wrapper = super().build_optim_wrapper(optim_wrapper)
        self.experts.clip_together(optim_wrapper)
        return optim_wrapper

    def _build_part(self, name: str, optim_wrapper: dict[str, Any]) -> OptimWrapper:
        """Build the optimizer of a part of the model.

        Raises:
            ValueError: the model has no part of that name.
        """
        whole = self.model
        parts = dict(unwrap(whole).named_children())
        if name not in parts:
            raise ValueError(f"optim_wrapper has a part {name!r}, and the model only {', '.join(parts)}")
        self.model = parts[name]
        try:
            return self.build_optim_wrapper(optim_wrapper)
        finally:
            self.model = whole

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedules of learning rates and the like.

        Args:
            scheduler: a schedule or its config, a list of them, or a list for each part of the model.

        Returns:
            The schedules.

        Raises:
            ValueError: one would end before it begins.
        """
        by_part = isinstance(scheduler, dict) and "type" not in scheduler
        for schedules in scheduler.values() if by_part else [scheduler]:
            for place, config in enumerate(schedules if isinstance(schedules, list | tuple) else [schedules]):
                if isinstance(config, dict):
                    _check_span(place, config, self.max_epochs)
        return super().build_param_scheduler(scheduler)

    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """Scale the learning rate by the ratio of the whole batch to the one the config was written for.

        The whole batch is what one optimizer step sees: over all processes and accumulated iterations. Schedulers work
        with ratios of this rate, so warm-up start and final rate scale with it.

        Args:
            optim_wrapper: the optimizer.
            auto_scale_lr: ``dict(enable=..., base_batch_size=...)``.

        Raises:
            ValueError: it is enabled and ``base_batch_size`` is missing.
        """
        if not auto_scale_lr or not auto_scale_lr.get("enable", False):
            return
        base = auto_scale_lr.get("base_batch_size")
        if base is None:
            raise ValueError("scaling the learning rate needs auto_scale_lr=dict(base_batch_size=...) in the config")
        batches: Any = self.train_dataloader.batch_sampler
        for wrapper in each_optimizer(optim_wrapper).values():
            total = batches.batch_size * self.world_size * wrapper._accumulative_counts
            for group in wrapper.param_groups:
                group["lr"] *= total / base
            self.logger.info(f"learning rate times {total / base:g}: a total batch of {total}, base_batch_size {base}")

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """Build the writers of scalars; without tensorboard installed, only the JSON file.

        Args:
            visualizer: a visualizer or its config.

        Returns:
            The visualizer.
        """
        if isinstance(visualizer, dict) and find_spec("tensorboard") is None:
            backends = visualizer.get("vis_backends") or []
            kept = [
                backend
                for backend in backends
                if backend["type"] not in (TensorboardVisBackend, "TensorboardVisBackend")
            ]
            if len(kept) < len(backends):
                self.logger.info("no TensorBoard log: tensorboard is not installed (pip install tensorboard)")
            visualizer = {**visualizer, "vis_backends": kept}
        return super().build_visualizer(visualizer)

    def dump_config(self) -> None:
        """Write the config beside the checkpoints of a training, once what it starts from is loaded.

        What an evaluation, or a start that fails, would write is not the config of the checkpoints that are there.
        """
        if self._has_loaded and self.cfg.get("train_cfg") is not None:
            super().dump_config()

    def load_or_resume(self) -> None:
        """Resume the run, or load the weights, that the config names with ``resume`` and ``load_from``.

        Raises:
            CheckpointError: if there is no such checkpoint, or it does not fit.
        """
        if self._has_loaded:
            return
        self._has_loaded = True
        if self._resume:
            path = self._find_checkpoint()
            if path is None and self._load_from is not None:
                raise CheckpointError(f"no checkpoint to resume in {self._load_from}")
            if path is None:
                self.logger.info(f"nothing to resume in {self.work_dir}: starting from scratch")
            else:
                resume_training(self, path)
        elif self._load_from is not None:
            checkpoint = self.experts.cut_checkpoint(read_checkpoint(Path(self._load_from)))
            weights, which = select_weights(checkpoint, self.cfg.get("weights", "ema"))
            load_weights(unwrap(self.model), weights, str(self._load_from))
            self.call_hook("after_load_checkpoint", checkpoint={"state_dict": weights})
            self.logger.info(f"loaded the {which} weights of {self._load_from}")
        self.dump_config()

    def _find_checkpoint(self) -> Path | None:
        """Let the main process choose, so that all processes resume the same checkpoint."""
        source = Path(self._load_from or self.work_dir)
        if self._load_from is not None and not source.is_dir():
            return source
        choice: list[Any] = [None]
        if self.rank == 0:
            try:
                choice = [find_last_checkpoint(source)]
            except CheckpointError as error:
                choice = [error]
        broadcast_object_list(choice)
        if isinstance(choice[0], CheckpointError):
            raise choice[0]
        return choice[0]

    def _maybe_compile(self, target: str) -> None:
        options = self.cfg.get("compile") or None
        if options is None:
            return
        unwrap(self.model).compile_backbone(**({} if options is True else options))
        self.logger.info("the backbone will be compiled: the first iterations take long, and so does the ETA")

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        gpu = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})" if torch.cuda.is_available() else "none"
        facts = {
            "python": f"{platform.python_version()} on {platform.platform()}",
            "torch": torch.__version__,
            "timm": timm.__version__,
            "mmengine": mmengine.__version__,
            "GPU": gpu,
            "processes": f"{self.world_size} (launcher {self.launcher})",
            "seed": self.seed,
            "amp": self.cfg.get("amp"),
        }
        table = "\n".join(f"    {name:10} {value}" for name, value in facts.items())
        self.logger.info(f"environment:\n{table}\nconfig:\n{self.cfg.pretty_text}")


def _check_span(place: int, schedule: dict[str, Any], max_epochs: int) -> None:
    """Refuse a schedule that ends before it begins, as of a training that was made shorter than its warm-up.

    Raises:
        ValueError: it does.
    """
    begin, end = schedule.get("begin", 0), schedule.get("end", max_epochs)
    if schedule.get("by_epoch", True) and begin >= end:
        source = f"param_scheduler.{place}.end" if "end" in schedule else "train_cfg.max_epochs"
        raise ValueError(
            f"param_scheduler.{place}.begin={begin} is not before its end, {source}={end}: take more epochs, or let it "
            "begin, and the one before it end, earlier"
        )


def _with_fitting_data(loop: Any) -> Any:
    """Return the loop if its data have as many classes as the model, and are spread as its experts need it.

    Raises:
        ValueError: they have not. A GPU would stop at the first label out of range without naming it, and labels of
            another set of classes would pass for wrong predictions. Or processes that share experts would have batches
            of different sizes, and wait for each other.
    """
    loop.runner.experts.check_batches(loop.dataloader)
    classes = getattr(loop.dataloader.dataset, "metainfo", {}).get("classes")
    num_classes = getattr(unwrap(loop.runner.model), "num_classes", None)
    if classes is not None and num_classes is not None and len(classes) != num_classes:
        model_cfg = loop.runner.cfg.get("model") or {}
        setting = "model.num_classes" if "num_classes" in model_cfg else "model.backbone.num_classes"
        raise ValueError(
            f"the data have {len(classes)} classes and the model {num_classes}; set {setting}={len(classes)}"
        )
    return loop
