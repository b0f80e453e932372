"""The interface of all environments, and the checks at its boundary."""

import abc
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from alfish import nest
from alfish.data_structures import TimeStep
from alfish.environments.faults import EnvironmentFault, locate, shorten, without_middle


class VectorEnvironment(abc.ABC):
    """B environments that step together.

    The rows follow data_structures.TimeStep: a terminated episode ends with LAST and discount 0, a truncated one with
    LAST and discount 1; if both happen at once, the discount is 0. The row after LAST is FIRST, with reward 0, discount
    1 and a zero `prev_action`; the action that was given on the LAST row is ignored.

    `out` is a TimeStep of preallocated CPU tensors `[B, ...]`, such as
    `specs.zeros(time_step_spec(environment.observation_spec, environment.action_spec), (B,))` or one row of a window.
    Everything is copied into it; nothing of it is kept.

    Attributes:
        name: for messages.
        num_envs: B.
        observation_spec: nest of TensorSpec, of one environment.
        action_spec: nest of BoundedTensorSpec, of one environment.
        frames_per_second: at which `render` is shown in the time of the game.
        action_names: what the values of a discrete action are called, from 0; empty if nobody tells.
        freezes: True if an environment whose episode has ended repeats its LAST row, with reward 0 and a zero
            `prev_action`, until the step after the next `begin_window`; its FIRST row is written by that step.
    """

    name: str
    num_envs: int
    observation_spec: nest.Nest
    action_spec: nest.Nest
    frames_per_second: float = 30.0
    action_names: Sequence[str] = ()
    freezes: bool = False

    @abc.abstractmethod
    def reset(self, seed: int, out: TimeStep) -> None:
        """Begins a new episode in all B environments, wherever they are, and writes FIRST rows.

        From here on, all rows follow from the seed and the actions.

        Args:
            seed: not negative; each environment gets its own seed from `np.random.SeedSequence(seed)`.
            out: `[B, ...]`.

        Raises:
            EnvironmentFault: an environment raised, or returned what it should not.
        """

    @abc.abstractmethod
    def step(self, action: nest.Nest, out: TimeStep) -> None:
        """Answers the rows and writes the next ones.

        Args:
            action: CPU tensors `[B, ...]` of the dtypes of `action_spec`. Continuous actions are not clipped here: the
                algorithm knows what it meant.
            out: `[B, ...]`.

        Raises:
            EnvironmentFault: an environment raised, or returned what it should not.
            ValueError: the action does not fit `action_spec`, or is not finite.
        """

    def begin_window(self) -> None:
        """Lets the next step begin new episodes where they have ended. Called where `freezes` is True only."""
        raise NotImplementedError(f"{type(self).__name__} must define begin_window(), or not be one that freezes")

    def render(self) -> np.ndarray:
        """What environment 0 looks like now.

        Returns:
            An RGB frame, uint8 `[H, W, 3]`.

        Raises:
            ValueError: it was not made with `render_mode="rgb_array"`, or cannot be rendered.
        """
        raise ValueError(f"{self.name!r} cannot be rendered: {type(self).__name__} does not define render()")

    @abc.abstractmethod
    def close(self) -> None:
        """Frees everything, worker processes included. May be called twice."""


class ArrayLayout(NamedTuple):
    """What one array `[B, ...]` of an environment looks like.

    Attributes:
        path: for messages, e.g. `"observation.camera"`.
        shape: with the axis B.
        dtype: of the array.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype


class BoundaryChecks:
    """Checks what B environments return, counts their episodes, and names all of it in its errors.

    An episode's number counts from 1, its steps from 0 (the reset).

    Args:
        name: of the environment.
        num_envs: B.
        structure: the nested structure of the observation.
        layouts: its leaves, in the order of the nest.
        slow_call_seconds: a step or reset of all B that takes longer is warned of, once.

    Attributes:
        slowest_call_seconds: the longest step or reset so far.
    """

    def __init__(
        self, name: str, num_envs: int, structure: Any, layouts: list[ArrayLayout], slow_call_seconds: float = 10.0
    ):
        self._name = name
        self._num_envs = num_envs
        self._structure = structure
        self._layouts = layouts
        self._is_leaf = structure == nest.structure(0)
        self._slow_call_seconds = slow_call_seconds
        self._now = 0
        self._began = np.zeros(num_envs, np.int64)
        self._episode = np.zeros(num_envs, np.int64)
        self.slowest_call_seconds = 0.0

    def begin_all(self) -> None:
        """Counts a new episode in all environments."""
        self._episode += 1
        self._began[:] = self._now

    def advance(self, begins: np.ndarray | None) -> None:
        """Counts a row.

        Args:
            begins: `[B]` bool, where the row begins an episode; None for nowhere.
        """
        self._now += 1
        if begins is not None:
            self._episode += begins
            self._began[begins] = self._now

    def steps(self) -> np.ndarray:
        """`[B]` int64, the step that each environment is at in its episode."""
        return self._now - self._began

    def fault(self, index: int | None, detail: str) -> EnvironmentFault:
        """The error for a finding.

        Args:
            index: which environment; None if that is not known.
            detail: what was wrong and what was expected.
        """
        if index is None:
            return EnvironmentFault(f"{locate(self._name, None, self._num_envs)}, row {self._now}: {detail}")
        episode, step = int(self._episode[index]), int(self._now - self._began[index])
        return EnvironmentFault(f"{locate(self._name, index, self._num_envs, episode, step)}: {detail}")

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls into the environment, and takes the time.

        Raises:
            EnvironmentFault: it raised; its own exception is the `__cause__`.
        """
        began = time.perf_counter()
        try:
            result = function(*arguments)
        except EnvironmentFault:
            raise
        except Exception as error:
            index = getattr(error, "index", None)  # of a worker's error
            raise self.fault(index, f"raised {type(error).__name__}: {without_middle(str(error))}") from error
        seconds = time.perf_counter() - began
        if seconds > self.slowest_call_seconds:
            if seconds > self._slow_call_seconds >= self.slowest_call_seconds:
                where = f"{locate(self._name, None, self._num_envs)}, row {self._now}"
                logging.warning("%s: took %.1f s; everything else waits meanwhile", where, seconds)
            self.slowest_call_seconds = seconds
        return result

    def observation_leaves(self, observation: Any) -> list[np.ndarray]:
        """The leaves `[B, ...]` of an observation, their structure, shapes and dtypes checked.

        Raises:
            EnvironmentFault: one of them is not as the observation space says.
        """
        if self._is_leaf:
            leaves = [observation]
        else:
            if nest.structure(observation) != self._structure:
                raise self.fault(None, f"observation is {shorten(observation)}; expected {self._structure}")
            leaves = nest.leaves(observation)
        for leaf, layout in zip(leaves, self._layouts, strict=True):
            self.check_array(leaf, layout)
        return leaves

    def check_array(self, array: Any, layout: ArrayLayout) -> None:
        """Checks the shape and the dtype of one array.

        Raises:
            EnvironmentFault: they are not those of `layout`.
        """
        path, shape, dtype = layout
        if not isinstance(array, np.ndarray):
            raise self.fault(None, f"{path} is {shorten(array)}; expected a NumPy array of shape {shape}")
        if array.shape != shape:
            raise self.fault(None, f"{path} has the shape {array.shape}; expected {shape}")
        if array.dtype != dtype:
            raise self.fault(None, f"{path} has the dtype {array.dtype}; expected {dtype}")

    def wrong_values(self, wrong: np.ndarray, source: np.ndarray, path: str, expected: str) -> EnvironmentFault:
        """The error for values that have the right form.

        Args:
            wrong: `[B, ...]` bool, True somewhere.
            source: `[B, ...]`, the values; the first wrong one is named.
            path: for the message.
            expected: what was expected.
        """
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        element = f"{path}{list(index[1:])}" if len(index) > 1 else path
        return self.fault(index[0], f"{element} is {source[index]}; expected {expected}")
