"""What the threads of this process are called (Linux)."""

from pathlib import Path


def communication_threads() -> list[str]:
    """Name the threads that send and receive for process groups."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]
