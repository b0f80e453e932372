"""Which hook of whose class an exception came out of."""

import inspect
import traceback
from types import FrameType

from alfish.algorithms.algorithm import Algorithm

_HOOKS = [name for name, value in vars(Algorithm).items() if inspect.isfunction(value) and not name.startswith("_")]


def hook_that_raised(error: BaseException) -> str:
    """The class and the hook, as `my_package.regression.Regression.train_step`, that an exception came out of.

    Of hooks that call each other, the innermost. Only hooks that are not alfish's own count: theirs say themselves what
    a user has to mend.

    Returns:
        "" if it came from elsewhere.
    """
    found = [_hook_of(frame) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for name in reversed(found) if name), "")


def _hook_of(frame: FrameType) -> str:
    # Not `or`: a tensor of many elements has no truth value.
    owner = frame.f_locals.get("self", next(iter(frame.f_locals.values()), None))
    if not isinstance(owner, Algorithm) or frame.f_globals.get("__name__", "").startswith("alfish."):
        return ""
    for hook in _HOOKS:
        defined = inspect.unwrap(getattr(type(owner), hook))
        if getattr(defined, "__code__", None) is frame.f_code:
            return f"{class_name(owner)}.{hook}"
    return ""


def class_name(algorithm: Algorithm) -> str:
    """The name of its class with that of its module, for messages."""
    return f"{type(algorithm).__module__}.{type(algorithm).__qualname__}"
