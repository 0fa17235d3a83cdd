"""The device that a command line names."""

import torch


def find_device(name: str | None = None) -> torch.device:
    """Return the device of that name, if this machine has it; without a name the GPU, or the CPU where there is none.

    Args:
        name: such as ``"cpu"`` or ``"cuda:1"``.

    Raises:
        ValueError: this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"cannot use --device {name}: {str(error).splitlines()[0]}") from error
    return device
