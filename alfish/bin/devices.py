"""Which device a command uses."""

import torch


def select(name: str) -> torch.device:
    """The device of a `--device` flag; `auto` takes the GPU if there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device={name} names no device; expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device={name} is not supported; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ValueError(f"--device={name} is not there: torch finds {found} GPUs; give another, or --device=cpu")
    return device


def description(device: torch.device) -> str:
    """The device's name, for the first screen."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} (1 thread)" if torch.get_num_threads() == 1 else f"{device} ({torch.get_num_threads()} threads)"
