"""Starts the tiny run again and again and kills it with SIGKILL, until it is done.

A script, so that each start is a fork of a process that has imported everything and computed nothing.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent)]

import torch  # noqa: E402

from gatedvision.engine import Runner  # noqa: E402
from gatedvision.engine.launch import load_config  # noqa: E402


def start(work_dir: Path, **interruption: object) -> int:
    """Resume the run in a child process.

    Args:
        work_dir: the work directory.
        interruption: arguments of the hook that kills the child.

    Returns:
        The child's process id.
    """
    pid = os.fork()
    if pid:
        return pid
    torch.set_num_threads(1)
    workers = {"train_dataloader.num_workers": 1, "train_dataloader.persistent_workers": True}
    cfg = load_config(Path(__file__).with_name("tiny_config.py"), work_dir, cfg_options=workers)
    cfg.resume = True
    cfg.custom_hooks = [*cfg.custom_hooks, {"type": "tiny_data.Interrupt", "kill": True, **interruption}]
    Runner.from_cfg(cfg).train()
    os._exit(0)


def main() -> None:
    """Kill at chosen moments, then at random ones, then let the run finish."""
    work_dir, kills = Path(sys.argv[1]), 0
    chosen = [{"iteration": 3}, {"write": "epoch_1.pth"}, {"iteration": 8}, {"write": "epoch_2.pth"}, {"val_epoch": 2}]
    for interruption in chosen:
        _, status = os.waitpid(start(work_dir, **interruption), 0)
        kills += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    for delay in random.Random(0).choices(range(5, 40), k=4):
        pid = start(work_dir)
        time.sleep(delay / 20)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
    _, status = os.waitpid(start(work_dir), 0)
    print(f"kills: {kills} ")
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
