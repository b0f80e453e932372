"""Wrappers of one Gymnasium environment that change what it shows, for `make_gymnasium.wrappers`. Imports no torch."""

from collections.abc import Sequence

import gin
import gymnasium
import numpy as np
from gymnasium import spaces


@gin.configurable
class KeptNumbers(gymnasium.ObservationWrapper):
    """Shows some of the numbers of a vector observation and hides the others, so that the state is known only in part.

    `KeptNumbers.indices = (0, 2)` leaves position and angle of CartPole-v1, without their velocities; a FrameStack lets
    an algorithm see differences of them.

    Args:
        env: has one vector as its observation, a Box `(D,)`.
        indices: of the numbers that are shown, in their new order, each in 0 … D−1 and named once.

    Raises:
        ValueError: the observation is not one vector, or the indices cannot be used.
    """

    def __init__(self, env: gymnasium.Env, indices: Sequence[int] = gin.REQUIRED):
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"KeptNumbers keeps numbers of one vector, a Box of one axis, not of {space}")
        known = range(space.shape[0])
        if not indices or len(set(indices)) < len(indices) or any(index not in known for index in indices):
            raise ValueError(
                f"KeptNumbers.indices is {tuple(indices)}; expected different whole numbers in 0…{len(known) - 1}, at "
                "least one"
            )
        self._indices = np.array(indices, np.int64)
        self.observation_space = spaces.Box(space.low[self._indices], space.high[self._indices], dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The kept numbers."""
        return observation[self._indices]


@gin.configurable
class ChannelsFirst(gymnasium.ObservationWrapper):
    """Shows images `(H, W, C)` as `(C, H, W)`, the layout that networks of images read.

    Args:
        env: has one image as its observation, a Box of three axes.

    Raises:
        ValueError: the observation is not one image.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            raise ValueError(f"ChannelsFirst reads one image, a Box (height, width, channels), not {space}")
        low, high = (np.moveaxis(bound, -1, 0) for bound in (space.low, space.high))
        self.observation_space = spaces.Box(low, high, dtype=space.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The image with its channels first."""
        return np.ascontiguousarray(np.moveaxis(observation, -1, 0))
