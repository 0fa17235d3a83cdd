"""Train or evaluate what a config file describes: the library side of ``tools/train.py`` and ``tools/test.py``."""

import difflib
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

import mmengine.runner
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger

from gatedvision.engine.amp import check_amp
from gatedvision.engine.checkpoint_file import locate_checkpoint, read_checkpoint, select_weights
from gatedvision.engine.checkpoint_hook import NonFiniteError
from gatedvision.engine.distributed import joined_processes
from gatedvision.engine.runner import Runner
from gatedvision.engine.show_hook import ShowPredictions

# What a mistake of the user raises, and a loss that diverges.
_MISTAKES = (ValueError, TypeError, OSError, ModuleNotFoundError, NonFiniteError)
_ENGINE_KEYS = {"amp", "compile", "expert_parallel", "find_unused_parameters", "weights"}


def train(
    config: Path,
    work_dir: Path | None = None,
    resume: bool | Path = False,
    amp: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = "none",
    auto_scale_lr: bool = False,
    compile: bool = False,
    seed: int | None = None,
) -> None:
    """Train what a config describes.

    Args:
        config: the config file.
        work_dir: folder for logs and checkpoints; ``work_dirs/<config name>`` where neither this nor the config says.
        resume: go on from this checkpoint, or with ``True`` from the last one in ``work_dir``.
        amp: precision, ``"bf16"`` or ``"fp16"``, in place of the config's.
        cfg_options: settings that replace those of the config, by dotted name.
        launcher: ``"none"``, ``"pytorch"`` or ``"slurm"``.
        auto_scale_lr: scale the learning rate by the batch size.
        compile: compile the backbone.
        seed: seed in place of the config's.

    Raises:
        ValueError: the config, an option or a checkpoint does not fit.
    """
    cfg = load_config(config, work_dir, amp, cfg_options, seed)
    _require(cfg, config, "model", "train_dataloader", "train_cfg", "optim_wrapper")
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume is True else str(resume)
    if auto_scale_lr:
        if not (cfg.get("auto_scale_lr") or {}).get("base_batch_size"):
            raise ValueError(f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {config}")
        cfg.auto_scale_lr.enable = True
    if compile:
        cfg.compile = cfg.get("compile") or True
    with joined_processes(launcher) as cfg.launcher:
        Runner.from_cfg(cfg).train()


def evaluate(
    config: Path,
    checkpoint: Path,
    work_dir: Path | None = None,
    out: Path | None = None,
    weights: Literal["ema", "raw"] = "ema",
    amp: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    launcher: str = "none",
    compile: bool = False,
    seed: int | None = None,
    show_dir: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint on the test data of a config.

    Args:
        config: the config file.
        checkpoint: the checkpoint, or a work directory, meaning its last one.
        work_dir: folder for the log; ``work_dirs/<config name>`` where neither this nor the config says.
        out: file for the metrics as JSON.
        weights: the moving average of the weights where there is one, or the weights in training.
        amp: precision, ``"bf16"`` or ``"fp16"``, in place of the config's.
        cfg_options: settings that replace those of the config, by dotted name.
        launcher: ``"none"``, ``"pytorch"`` or ``"slurm"``.
        compile: compile the backbone.
        seed: seed in place of the config's.
        show_dir: folder for a picture of every prediction, of a task that draws them.

    Returns:
        The metrics, and which checkpoint and weights they belong to.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the model.
        ValueError: the config or an option does not fit.
    """
    cfg = load_config(config, work_dir, amp, cfg_options, seed)
    _require(cfg, config, "model", "test_dataloader", "test_evaluator", "test_cfg")
    checkpoint = locate_checkpoint(checkpoint)
    # Before the model is built: a wrong path should show at once.
    saved = read_checkpoint(checkpoint)
    cfg.load_from, cfg.resume, cfg.weights = str(checkpoint), False, weights
    leave_out_pretrained(cfg)
    # The training part would only be built to be thrown away.
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"):
        cfg.pop(key, None)
    # Each process evaluates by itself, and one will do.
    cfg.pop("expert_parallel", None)
    with joined_processes(launcher) as cfg.launcher:
        report = _evaluate(cfg, compile, show_dir)
        report |= {"weights": select_weights(saved, weights)[1], "checkpoint": str(checkpoint)}
        if get_rank() == 0:
            _print_report(report)
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(report, indent=2) + "\n")
        return report


def load_config(
    path: Path,
    work_dir: Path | None = None,
    amp: str | None = None,
    cfg_options: dict[str, Any] | None = None,
    seed: int | None = None,
) -> Config:
    """Load a config, replace settings in it, and refuse keys that nothing would read.

    Args:
        path: the config file.
        work_dir: see :func:`train`.
        amp: see :func:`train`.
        cfg_options: see :func:`train`.
        seed: see :func:`train`.

    Returns:
        The config.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be loaded, or has an unknown key.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no config at {path}")
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is a program, which may fail in any way
        raise ValueError(f"cannot load config {path}: {type(error).__name__}: {error}") from error
    for name, value in (cfg_options or {}).items():
        try:
            cfg.merge_from_dict({name: value})
        except Exception as error:  # whatever the value in the config makes of it
            raise ValueError(f"cannot set {name}={value!r} in {path}: {error}") from error
    _check_keys(cfg, path)
    cfg.work_dir = str(work_dir or cfg.get("work_dir") or Path("work_dirs", path.stem))
    if amp is not None:
        cfg.amp = amp
    check_amp(cfg.get("amp"))
    if seed is not None:
        cfg.randomness = {**(cfg.get("randomness") or {}), "seed": seed}
    return cfg


def leave_out_pretrained(cfg: Config) -> None:
    """Let a model be built without pretrained weights: where a checkpoint follows, none have to be fetched.

    Args:
        cfg: the config; changed in place.
    """
    for part in ("backbone", "generator", "network"):
        if cfg.model.get(part, {}).get("pretrained"):
            cfg.model[part].pretrained = False


def exit_with_message(function: Callable[..., Any], **kwargs: Any) -> None:
    """Call a function of this module from a command line: one line on stderr and exit code 2 for a mistake of the user.

    The log file of the run keeps the traceback, in case it was no mistake. Any other exception is a defect and shows
    its own.

    Args:
        function: what to call.
        **kwargs: its arguments.

    Raises:
        KeyError: one that is a defect, too.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        function(**kwargs)
    except (*_MISTAKES, KeyError) as error:
        # Of the latter, what a config names and mmengine does not find.
        if isinstance(error, KeyError) and "registry" not in str(error):
            raise
        _log_traceback()
        _fail(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _evaluate(cfg: Config, compile: bool, show_dir: Path | None) -> dict[str, Any]:
    """Build the runner, evaluate, and let the runner go: the processes part after that.

    Returns:
        The metrics and the number of images.
    """
    runner = Runner.from_cfg(cfg)
    # The weights are chosen by load_from; EMAHook would only keep a second copy of them.
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, (EMAHook, ShowPredictions))]
    if show_dir is not None:
        runner.register_hook(ShowPredictions(show_dir, images=None))
    if compile or cfg.get("compile"):
        runner.cfg.compile = cfg.get("compile") or True
        runner._maybe_compile("test_step")
    # Before the data, which may take minutes to open.
    runner.load_or_resume()
    metrics = runner.test()
    dataset: Any = runner.test_dataloader.dataset
    return {**metrics, "images": len(dataset)}


def _log_traceback() -> None:
    logger = MMLogger.get_current_instance()
    record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "stopped", (), sys.exc_info())
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _fail(error: Exception) -> NoReturn:
    # What a data worker raises arrives as a traceback, whose last line is the message.
    # The text of a KeyError is its argument in quotes.
    text = error.args[0] if isinstance(error, KeyError) else str(error)
    lines = str(text).strip().split("\n")
    message = " ".join(line.strip() for line in lines)
    if "Traceback" in message:
        message = lines[-1].partition(": ")[2]
    print(f"error: {message or type(error).__name__}", file=sys.stderr)
    sys.exit(2)


def _check_keys(cfg: Config, path: Path) -> None:
    known = set(inspect.signature(mmengine.runner.Runner.__init__).parameters) - {"self", "cfg"} | _ENGINE_KEYS
    for key in list(cfg):
        if isinstance(cfg[key], type) or inspect.isroutine(cfg[key]) or inspect.ismodule(cfg[key]):
            # An import of a base config.
            cfg.pop(key)
        elif key not in known and not key.startswith("_") and not key.endswith("_pipeline"):
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "names of your own start with '_'"
            raise ValueError(f"unknown key {key!r} in {path} or --cfg-options; {hint}")


def _require(cfg: Config, path: Path, *keys: str) -> None:
    """Refuse a config that lacks a part.

    Raises:
        ValueError: it does.
    """
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise ValueError(f"{path} does not define {', '.join(missing)}")


def _print_report(report: dict[str, Any]) -> None:
    # What is said of single classes, such as IoU/<class>, or of shares of the images is for the file.
    values = [
        f"{name.removeprefix('accuracy/')} {value:.2f} %" if name.startswith("accuracy/") else f"{name} {value:.4f}"
        for name, value in report.items()
        if isinstance(value, float)
        and not name.rpartition("/")[0].endswith(
            ("IoU", "Dice", "ASD", "HD95", "AP", "L1", "PSNR", "SSIM", "LPIPS", "FID")
        )
    ]
    print(f"{'  '.join(values)}  ({report['images']} images, {report['weights']} weights of {report['checkpoint']})")
