"""Whether an algorithm defines what a run will call, and whether it answers as it should."""

import difflib

import torch

from alfish.algorithms.agent import Agent
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.hook_errors import class_name
from alfish.rollout.acting import Actor, blank_rows, random_numbers_kept
from alfish.trainers.experiment import Built
from alfish.trainers.hook_checks import ACTING, TRAINING, check_declared, check_first_answers


def check_hooks(algorithm: Algorithm) -> None:
    """Checks that an algorithm, and each part that is trained apart, defines its hooks, and what it says of itself.

    Args:
        algorithm: of a run: it must define how it acts and how it is trained; a part only how it is trained.

    Raises:
        ValueError: hooks are left undefined, all of them named, or one says what it should not.
    """
    _check(meant(algorithm), ACTING + TRAINING)
    check_declared(meant(algorithm))
    for task in algorithm.training_tasks():
        _check(task.algorithm, TRAINING)
        check_declared(task.algorithm)


def check_answers(built: Built, num_envs: int, window_length: int, device: torch.device) -> None:
    """Has what the hooks return checked: in the first window and the first batch of the run, and `predict_step` now.

    Evaluation, which calls that hook, may be hours away. It answers rows of zeros, and takes no random number.

    Args:
        built: the parts of the run.
        num_envs: B.
        window_length: T of a window.
        device: where the algorithm is.

    Raises:
        ValueError: `predict_step` returned what it should not.
    """
    algorithm = built.algorithm
    check_first_answers(meant(algorithm), ("predict_step", *TRAINING))
    check_first_answers(meant(algorithm), ("rollout_step",), num_calls=1 + window_length)
    for task in algorithm.training_tasks():
        check_first_answers(task.algorithm, TRAINING)
    training = algorithm.training
    algorithm.eval()
    with torch.inference_mode(), random_numbers_kept(device):
        Actor(algorithm, built.transform, num_envs, device).predict(blank_rows(built.row_specs, num_envs))
    algorithm.train(training)


def meant(algorithm: Algorithm) -> Algorithm:
    """Whose hooks a message names: what acts within an Agent, else the algorithm."""
    return algorithm.algorithm if isinstance(algorithm, Agent) else algorithm


def _check(algorithm: Algorithm, hooks: tuple[str, ...]) -> None:
    missing = [hook for hook in hooks if not _defines(algorithm, hook)]
    if not missing:
        return
    kind = type(algorithm)
    own = [name for name in vars(kind) if not hasattr(Algorithm, name)]
    close = [match for hook in missing for match in difflib.get_close_matches(hook, own, n=1, cutoff=0.6)]
    hint = f" (did you mean one of them by {', '.join(close)}?)" if close else ""
    raise ValueError(
        f"{class_name(algorithm)} does not define {', '.join(missing)}{hint}; an algorithm that is "
        f"{'trained' if hooks == TRAINING else 'run'} defines {', '.join(hooks)}, as the docstrings of "
        "alfish.algorithms.algorithm.Algorithm say"
    )


def _defines(algorithm: Algorithm, hook: str) -> bool:
    return hook in vars(algorithm) or getattr(type(algorithm), hook) is not getattr(Algorithm, hook)
