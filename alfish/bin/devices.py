"""Which device a command uses."""

import torch

from alfish.rollout.device_names import device_named


def select(name: str) -> torch.device:
    """The device of a `--device` flag; `auto` takes the GPU if there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device_named("--device", name, also=("auto",))


def description(device: torch.device) -> str:
    """The device's name, for the first screen."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} (1 thread)" if torch.get_num_threads() == 1 else f"{device} ({torch.get_num_threads()} threads)"
