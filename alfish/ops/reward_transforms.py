"""Transforms of the reward that a learner is trained on."""

import math

import gin
import torch


@gin.configurable
class SignReward:
    """Rewards become −1, 0 or 1, as is usual for Atari (Mnih et al. 2015, methods)."""

    def __call__(self, reward: torch.Tensor) -> torch.Tensor:
        """The sign of each element of `reward` `[...]`."""
        return reward.sign()


@gin.configurable
class ShiftedReward:
    """scale * (reward + offset): brings rewards to about mean 0 and size 1, where supports resolve them best.

    An offset adds the same to every step. It changes which behaviour is best wherever that decides how long an episode
    is: leave it at 0 unless all episodes end by a time limit only.

    Args:
        offset: in the unit of the reward.
        scale: above 0.

    Raises:
        ValueError: `scale` is not above 0, or one of them is not finite.
    """

    def __init__(self, offset: float = 0.0, scale: float = 1.0):
        if not (0.0 < scale < math.inf and math.isfinite(offset)):
            raise ValueError(
                f"ShiftedReward.scale is {scale} and .offset is {offset}; expected finite numbers, the scale above 0"
            )
        self._offset = offset
        self._scale = scale

    def __call__(self, reward: torch.Tensor) -> torch.Tensor:
        """Each element of `reward` `[...]`, shifted and then scaled."""
        return (reward + self._offset) * self._scale
