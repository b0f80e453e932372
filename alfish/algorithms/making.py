"""Making an algorithm that a user has written, and saying what is wrong with it."""

import inspect
from collections.abc import Callable, Mapping

from alfish import nest
from alfish.algorithms.algorithm import Algorithm

_SIGNATURE = "__init__(self, observation_spec, action_spec, ...)"
_BEFORE_INIT = "before Module.__init__() call"
"""What torch says where a part is assigned to a module that is none yet."""


def make_algorithm(
    setting: str, factory: Callable[..., Algorithm], observation_spec: nest.Nest, action_spec: nest.Nest
) -> Algorithm:
    """Calls the factory of an algorithm with both specs.

    Args:
        setting: what the factory was bound to, for messages, e.g. `"Experiment.algorithm"`.
        factory: makes the algorithm.
        observation_spec: nest of TensorSpec.
        action_spec: nest of BoundedTensorSpec.

    Raises:
        ValueError: it does not take the specs, makes something else than an Algorithm, or one whose constructor leaves
            out that of Algorithm.
    """
    name = getattr(factory, "__name__", str(factory))
    arguments = {"observation_spec": observation_spec, "action_spec": action_spec}
    check_takes(setting, factory, arguments, "both specs", f"define {_SIGNATURE}")
    try:
        made = factory(**arguments)
    except AttributeError as error:
        if _BEFORE_INIT not in str(error):
            raise
        raise _left_out(setting, name) from error
    if not isinstance(made, Algorithm):
        raise ValueError(
            f"{setting} makes a {type(made).__name__}; expected an Algorithm: derive its class from "
            "alfish.algorithms.algorithm.Algorithm, or bind the algorithm that it is a part of"
        )
    if "observation_spec" not in vars(made):
        raise _left_out(setting, type(made).__name__)
    return made


def check_takes(
    setting: str, factory: Callable[..., Algorithm], arguments: Mapping[str, object], what: str, advice: str
) -> None:
    """Checks that the factory of an algorithm takes arguments of some names; it may need others, bound in gin.

    Args:
        setting: what the factory was bound to, for messages.
        factory: makes the algorithm.
        arguments: what it is called with.
        what: says in the message what they are.
        advice: ends the message.

    Raises:
        ValueError: it does not.
    """
    try:
        inspect.signature(factory).bind_partial(**arguments)
    except TypeError as error:
        name = getattr(factory, "__name__", str(factory))
        raise ValueError(f"{setting} is {name}, which does not take {what} ({error}); {advice}") from None


def _left_out(setting: str, name: str) -> ValueError:
    return ValueError(
        f"{setting} is {name}, whose __init__ does not begin with super().__init__(observation_spec, action_spec); add "
        "that line before it assigns anything"
    )
