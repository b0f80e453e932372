"""Transforms of the reward that a learner is trained on."""

import math
from collections.abc import Callable

import gin
import torch

RewardTransform = Callable[[torch.Tensor], torch.Tensor]
"""From rewards `[...]` to the rewards `[...]` that are learned from."""


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


def transformed_rewards(reward: torch.Tensor, transform: RewardTransform) -> torch.Tensor:
    """The rewards `[...]` that a user's transform makes of `reward` `[...]`, without gradient.

    Raises:
        ValueError: it changes the shape or the dtype or, of rewards on the CPU, makes one that is not finite.
    """
    changed = transform(reward)
    if not isinstance(changed, torch.Tensor) or (changed.shape, changed.dtype) != (reward.shape, reward.dtype):
        # A compiled sum would read beyond its end.
        made = f"{changed.dtype} {tuple(changed.shape)}" if isinstance(changed, torch.Tensor) else repr(changed)
        raise ValueError(
            f"the reward transform {transform!r} made {made} of rewards {reward.dtype} {tuple(reward.shape)}; it must "
            "keep the shape and the dtype"
        )
    # Of rewards on a GPU the answer would have to be waited for.
    if changed.device.type == "cpu" and not changed.isfinite().all():
        one = int(changed.isfinite().logical_not().flatten().nonzero()[0])
        raise ValueError(
            f"the reward transform {transform!r} made {float(changed.flatten()[one])} of the reward "
            f"{float(reward.flatten()[one])}; it must be finite"
        )
    return changed.detach()
