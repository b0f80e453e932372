"""The checks around one Gymnasium environment, in the process that it runs in. Imports no torch."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from alfish import gin_config
from alfish.environments.faults import MAX_TEXT, MAX_TRACE, EnvironmentFault, locate, shorten, without_middle
from alfish.environments.held_environment import HeldEnvironment
from alfish.environments.orphans import end_with_the_parent

_BOOLS = (bool, np.bool_)
_NUMBERS = (float, int, np.floating, np.integer, np.bool_)


def mismatch(space: gymnasium.Space, value: Any, path: str) -> str | None:
    """Compares one observation with its space by structure, shape and dtype, not by value.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple.
        value: what the environment returned.
        path: of `value`, e.g. `"observation.camera"`.

    Returns:
        None if they agree, otherwise what is wrong and what was expected.
    """
    if isinstance(space, gymnasium.spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.spaces.keys():
            found = f"the keys {sorted(map(str, value))}" if isinstance(value, dict) else shorten(value)
            return f"{path} is {found}; expected a dict with the keys {sorted(space.spaces)}"
        return _first(mismatch(part, value[key], f"{path}.{key}") for key, part in space.spaces.items())
    if isinstance(space, gymnasium.spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            return f"{path} is {shorten(value)}; expected a tuple of {len(space.spaces)} parts"
        return _first(mismatch(part, value[i], f"{path}.{i}") for i, part in enumerate(space.spaces))
    if isinstance(space, gymnasium.spaces.Discrete):
        if isinstance(value, int | np.integer) or getattr(value, "shape", None) == () and value.dtype.kind in "iu":
            return None
        return f"{path} is {shorten(value)}; expected one integer of {space}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if shape == space.shape and dtype == space.dtype:
        return None
    if dtype is None:
        return f"{path} is {shorten(value)}; expected a NumPy array of shape {space.shape} and dtype {space.dtype}"
    if shape != space.shape:
        return f"{path} has the shape {shape}; expected {space.shape}, as the observation space says"
    return (
        f"{path} has the dtype {dtype}; expected {space.dtype}, as the observation space says. Return "
        f"`value.astype(np.{space.dtype})`, or add the wrapper gymnasium.wrappers.DtypeObservation"
    )


def _first(found: Any) -> str | None:
    return next((text for text in found if text is not None), None)


class GuardedEnvironment(gymnasium.Wrapper):
    """Checks what one environment returns, before it is joined with the others, and names it in every error.

    Args:
        env: the environment, all its wrappers included.
        name: for messages.
        index: which of the parallel environments this is.
        num_envs: B.
        quote_traceback: puts the traceback of an exception into the message: it does not survive the way from a worker
            process otherwise.
    """

    def __init__(self, env: gymnasium.Env, name: str, index: int, num_envs: int, quote_traceback: bool):
        super().__init__(env)
        self._name, self._index, self._num_envs = name, index, num_envs
        self._quote_traceback = quote_traceback
        self._space = env.observation_space
        self._is_box = isinstance(self._space, gymnasium.spaces.Box)
        self._shape, self._dtype = self._space.shape, self._space.dtype
        self._episode = 0
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode.

        Raises:
            EnvironmentFault: the environment raised, or returned what it should not.
        """
        self._episode += 1
        self._step = 0
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._raised("reset", error) from error
        if not isinstance(result, tuple) or len(result) != 2:
            raise self._fault(f"reset returned {shorten(result)}; expected (observation, info)")
        self._check_observation(result[0])
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step.

        Raises:
            EnvironmentFault: the environment raised, or returned what it should not.
        """
        self._step += 1
        try:
            result = self.env.step(action)
        except Exception as error:
            raise self._raised("step", error) from error
        if not isinstance(result, tuple) or len(result) != 5:
            raise self._fault(
                f"step returned {shorten(result)}; expected (observation, reward, terminated, truncated, info)"
            )
        observation, reward, terminated, truncated, _ = result
        self._check_observation(observation)
        if not isinstance(reward, _NUMBERS):
            raise self._fault(f"reward is {shorten(reward)}; expected one number")
        if not (isinstance(terminated, _BOOLS) and isinstance(truncated, _BOOLS)):
            raise self._fault(
                f"terminated is {shorten(terminated)} and truncated is {shorten(truncated)}; expected two bools"
            )
        return result

    def _check_observation(self, observation: Any) -> None:
        if (
            self._is_box
            and isinstance(observation, np.ndarray)
            and observation.shape == self._shape
            and observation.dtype == self._dtype
        ):
            return  # the usual case, fast
        if (wrong := mismatch(self._space, observation, "observation")) is not None:
            raise self._fault(wrong)

    def _fault(self, detail: str) -> EnvironmentFault:
        where = locate(self._name, self._index, self._num_envs, self._episode, self._step)
        return EnvironmentFault(f"{where}: {detail}")

    def _raised(self, what: str, error: Exception) -> EnvironmentFault:
        where = locate(self._name, self._index, self._num_envs, self._episode, self._step)
        return _quoting(error, f"{where}: {what} raised", self._quote_traceback)


def _quoting(error: Exception, what: str, with_traceback: bool) -> EnvironmentFault:
    line = f"{what} {type(error).__name__}: {without_middle(str(error))}"
    quoted = without_middle(traceback.format_exc(), MAX_TRACE - 2 * MAX_TEXT) if with_traceback else ""
    return EnvironmentFault(f"{quoted}{line}")


class EnvironmentMaker:
    """Makes one guarded environment; travels to a worker process, by cloudpickle, and makes it there.

    It carries the registration of the environment, so that the worker needs to import only the environment's own
    module, and the gin configuration, without which configurables would silently take their defaults there.

    Args:
        spec: the environment's registration.
        make_kwargs: arguments of `gymnasium.make`.
        wrappers: applied in this order, each to one environment.
        name: for messages.
        index: which of the parallel environments.
        num_envs: B.
        in_worker: True if the environment will run in a worker process.
        held: True if it shall be a HeldEnvironment.
    """

    def __init__(
        self,
        spec: gymnasium.envs.registration.EnvSpec,
        make_kwargs: dict[str, Any],
        wrappers: Sequence[Callable[[gymnasium.Env], gymnasium.Env]],
        name: str,
        index: int,
        num_envs: int,
        in_worker: bool,
        held: bool,
    ):
        self._spec, self._make_kwargs, self._wrappers = spec, make_kwargs, tuple(wrappers)
        self._name, self._index, self._num_envs = name, index, num_envs
        self._in_worker, self._held = in_worker, held
        self._config_text = gin_config.config_text() if in_worker else ""
        self._home_process = os.getpid()

    def __call__(self) -> gymnasium.Env:
        """Makes the environment.

        Raises:
            EnvironmentFault: its constructor, or a wrapper, raised.
        """
        # AsyncVectorEnv also makes one environment in this process, whose configuration must be left alone.
        if self._in_worker and os.getpid() != self._home_process and multiprocessing.parent_process() is not None:
            gin_config.parse_text(self._config_text)
            # Ctrl-C reaches the workers too, but the main process still needs them to stop cleanly.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            # A worker that computes notices nobody's death by its pipe.
            end_with_the_parent()
        try:
            # The guard checks every step; Gymnasium's passive checker would only check the first, and only warn.
            env = gymnasium.make(self._spec, disable_env_checker=True, **self._make_kwargs)
            for wrapper in self._wrappers:
                env = wrapper(env)
        except gymnasium.error.DependencyNotInstalled:
            raise
        except Exception as error:
            where = locate(self._name, self._index, self._num_envs)
            raise _quoting(error, f"{where}: could not be made:", self._in_worker) from error
        guarded = GuardedEnvironment(env, self._name, self._index, self._num_envs, self._in_worker)
        return HeldEnvironment(guarded) if self._held else guarded
