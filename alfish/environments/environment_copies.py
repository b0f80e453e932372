"""Copies of Gymnasium environments in the middle of an episode, and reading and writing their state."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import wrappers
from gymnasium.utils import EzPickle

from alfish import nest

_NOTHING_KEPT = (wrappers.OrderEnforcing, wrappers.PassiveEnvChecker)
_TRANSFORMS = (wrappers.TransformAction, wrappers.TransformObservation, wrappers.TransformReward)


class StateAccess(NamedTuple):
    """How the whole state of an environment, its wrappers included, is read and written.

    Attributes:
        get: from an environment to its state, a nest of arrays or numbers whose shapes and dtypes never change.
        set: writes such a nest of arrays to an environment that was made alike and reset.
    """

    get: Callable[[gymnasium.Env], nest.Nest]
    set: Callable[[gymnasium.Env, nest.Nest], None]


def layers_of(env: gymnasium.Env) -> list[gymnasium.Env]:
    """The environment itself and its wrappers, from the inside out."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers[::-1]


def describe(env: gymnasium.Env) -> str:
    """The registered name of an environment, or that of its class, for messages."""
    return repr(env.spec.id) if env.spec is not None else type(env.unwrapped).__name__


def copy_environment(env: gymnasium.Env, shared: Sequence[str] = ()) -> gymnasium.Env:
    """A deep copy in the same state.

    Args:
        env: is only read.
        shared: attributes of the innermost environment that never change, such as tables: not copied.

    Raises:
        ValueError: it cannot be copied, or has no such attribute.
    """
    layers = layers_of(env)
    memo: dict[int, Any] = {}
    for name in shared:
        if not hasattr(layers[0], name):
            raise ValueError(f"shared has {name!r}; expected attributes of {type(layers[0]).__name__}")
    constants = [getattr(layers[0], name) for name in shared] + [vars(layer).get("spec") for layer in layers]
    memo.update({id(value): value for value in constants})
    for layer in layers:
        try:
            memo[id(layer)] = _copy_layer(layer, memo)
        except Exception as error:  # Copying what others wrote can raise anything.
            raise ValueError(
                f"{describe(env)} cannot be copied, because of {type(layer).__name__}: {error}. Make it without"
                " render_mode, or give state_access=StateAccess(get, set), which reads and writes its state"
            ) from error
    return memo[id(env)]


def _copy_layer(layer: gymnasium.Env, memo: dict[int, Any]) -> gymnasium.Env:
    if not isinstance(layer, EzPickle) or type(layer).__getstate__ is not EzPickle.__getstate__:
        return copy.deepcopy(layer, memo)
    # copy.deepcopy would make a new environment from the constructor's arguments, which is in no episode.
    made = type(layer).__new__(type(layer))
    memo[id(layer)] = made
    vars(made).update(copy.deepcopy(vars(layer), memo))
    return made


def reseed(env: gymnasium.Env, seed: int) -> None:
    """Gives an environment new random numbers, wherever itself or a wrapper keeps a NumPy generator as an attribute."""
    generator = np.random.Generator(np.random.PCG64(seed))
    for layer in layers_of(env):
        for name, value in list(vars(layer).items()):
            if isinstance(value, np.random.Generator):
                setattr(layer, name, generator)
    env.unwrapped.np_random = generator


def find_state_access(env: gymnasium.Env) -> StateAccess | None:
    """How the state of a known environment is read and written; None if it has to be copied.

    Known are Atari games (`clone_state`) and environments with `get_state()` and `set_state(state)`, below time limits
    and wrappers that keep nothing.

    Raises:
        ValueError: it is an Atari game with sticky actions.
    """
    inner, *outer = layers_of(env)
    if not all(isinstance(layer, wrappers.TimeLimit) or _keeps_nothing(layer) for layer in outer):
        return None
    if hasattr(inner, "ale") and hasattr(inner, "clone_state"):
        _check_not_sticky(inner)
        return _with_time(_get_atari_state, _set_atari_state)
    if callable(getattr(inner, "get_state", None)) and callable(getattr(inner, "set_state", None)):
        return _with_time(_get_own_state, _set_own_state)
    return None


def _keeps_nothing(layer: gymnasium.Env) -> bool:
    if isinstance(layer, _TRANSFORMS):
        return type(layer).__module__.startswith("gymnasium.wrappers.")
    return type(layer) in _NOTHING_KEPT


def _with_time(get_inner: Callable[[Any], nest.Nest], set_inner: Callable[[Any, nest.Nest], None]) -> StateAccess:
    def get(env: gymnasium.Env) -> nest.Nest:
        steps = [layer._elapsed_steps or 0 for layer in _time_limits(env)]
        return {"inner": get_inner(env.unwrapped), "steps": np.asarray(steps, np.int64)}

    def set_(env: gymnasium.Env, state: nest.Nest) -> None:
        for layer, steps in zip(_time_limits(env), state["steps"].tolist(), strict=True):
            layer._elapsed_steps = steps
        set_inner(env.unwrapped, state["inner"])

    return StateAccess(get, set_)


def _time_limits(env: gymnasium.Env) -> list[wrappers.TimeLimit]:
    return [layer for layer in layers_of(env) if isinstance(layer, wrappers.TimeLimit)]


def _get_own_state(inner: Any) -> nest.Nest:
    return inner.get_state()


def _set_own_state(inner: Any, state: nest.Nest) -> None:
    inner.set_state(state)


def _get_atari_state(inner: Any) -> np.ndarray:
    return np.frombuffer(inner.clone_state().serialize(), np.uint8)


def _set_atari_state(inner: Any, state: np.ndarray) -> None:
    # The class is taken from a state, because ale-py is an optional package.
    inner.restore_state(type(inner.clone_state())(state.tobytes()))


def _check_not_sticky(inner: Any) -> None:
    stickiness = inner.ale.getFloat("repeat_action_probability")
    if stickiness > 0:
        raise ValueError(
            f"{describe(inner)} has repeat_action_probability={stickiness:.2g}, drawn from random numbers inside the"
            " emulator that nobody can set; make it with repeat_action_probability=0"
        )
