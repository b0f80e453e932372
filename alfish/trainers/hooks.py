"""Whether an algorithm defines what a run will call."""

import difflib

from alfish.algorithms.agent import Agent
from alfish.algorithms.algorithm import Algorithm

_ACTING = ("rollout_step", "predict_step")
_TRAINING = ("preprocess_experience", "train_step", "calc_loss")


def check_hooks(algorithm: Algorithm) -> None:
    """Raises a ValueError that names every hook that an algorithm, or a part that is trained apart, leaves undefined.

    Args:
        algorithm: of a run: it must define how it acts and how it is trained; a part only how it is trained.
    """
    _check(algorithm.algorithm if isinstance(algorithm, Agent) else algorithm, _ACTING + _TRAINING)
    for task in algorithm.training_tasks():
        _check(task.algorithm, _TRAINING)


def _check(algorithm: Algorithm, hooks: tuple[str, ...]) -> None:
    missing = [hook for hook in hooks if not _defines(algorithm, hook)]
    if not missing:
        return
    kind = type(algorithm)
    own = [name for name in vars(kind) if not hasattr(Algorithm, name)]
    close = [match for hook in missing for match in difflib.get_close_matches(hook, own, n=1, cutoff=0.6)]
    hint = f" (did you mean one of them by {', '.join(close)}?)" if close else ""
    raise ValueError(
        f"{kind.__module__}.{kind.__qualname__} does not define {', '.join(missing)}{hint}; an algorithm that is "
        f"{'trained' if hooks == _TRAINING else 'run'} defines {', '.join(hooks)}, as the docstrings of "
        "alfish.algorithms.algorithm.Algorithm say"
    )


def _defines(algorithm: Algorithm, hook: str) -> bool:
    return hook in vars(algorithm) or getattr(type(algorithm), hook) is not getattr(Algorithm, hook)
