"""Which rows to train on."""

from typing import Protocol

import gin
import numpy as np


class Sampler(Protocol):
    """Chooses the first rows of the segments of a batch."""

    def sample(
        self, batch_size: int, first: int, last: int, num_envs: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws rows.

        Args:
            batch_size: how many.
            first: the lowest position that is allowed.
            last: the highest, at least `first`.
            num_envs: B; all environments are allowed.
            generator: the only source of randomness.

        Returns:
            (position, env_id), int64 `[batch_size]` each.
        """


@gin.configurable
class UniformSampler:
    """Every allowed row is equally likely, with replacement."""

    def sample(
        self, batch_size: int, first: int, last: int, num_envs: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """See Sampler.sample."""
        draw = generator.integers((last - first + 1) * num_envs, size=batch_size)
        return first + draw // num_envs, draw % num_envs
