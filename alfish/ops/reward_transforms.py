"""Transforms of the reward that a learner is trained on."""

import gin
import torch


@gin.configurable
class SignReward:
    """Rewards become −1, 0 or 1, as is usual for Atari (Mnih et al. 2015, methods)."""

    def __call__(self, reward: torch.Tensor) -> torch.Tensor:
        """The sign of each element of `reward` `[...]`."""
        return reward.sign()
