"""Names of devices, as users give them."""

import torch


def device_named(setting: str, name: str, also: tuple[str, ...] = ()) -> torch.device:
    """The device of that name.

    Args:
        setting: what has the name for its value, for messages, e.g. `"EvaluationProcess.device"`.
        name: `"cpu"`, `"cuda"` or `"cuda:N"`.
        also: other values that the setting may have, for messages.

    Raises:
        ValueError: it names no device, or one that is not there.
    """
    *others, last = [repr(each) for each in (*also, "cpu", "cuda", "cuda:N")]
    expected = f"{setting} is {name!r}; expected {', '.join(others)} or {last}"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(expected) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(expected)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{setting} is {name!r}, which is not there: torch finds {torch.cuda.device_count()} GPUs; give another, "
            "or 'cpu'"
        )
    return device
