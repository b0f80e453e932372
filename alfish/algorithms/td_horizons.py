"""How far value targets look ahead: horizons by age, and when a search's value takes the place of rewards."""

import gin
import torch

from alfish.checks import check_at_least


@gin.configurable
class LinearTdStepFunc:
    """The n of n-step value targets falls with the age of the row, because the actions after it are an old policy's.

    Ye et al. 2021, "Mastering Atari games with limited data" (EfficientZero), section 4.3:

        n(age) = ceil(min_td_steps + (td_steps - min_td_steps) * max(0, 1 - age / max_bootstrap_age))

    in whole numbers, so that no rounding adds a step.

    Args:
        max_bootstrap_age: from this age on n is `min_td_steps`; in environment steps of the run, at least 1.
        min_td_steps: at least 0; 0 takes the value of the row itself.

    Attributes:
        min_td_steps: as given.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, max_bootstrap_age: int = gin.REQUIRED, min_td_steps: int = 1):
        check_at_least("LinearTdStepFunc.max_bootstrap_age", max_bootstrap_age, 1)
        check_at_least("LinearTdStepFunc.min_td_steps", min_td_steps, 0)
        self._max_age = max_bootstrap_age
        self.min_td_steps = min_td_steps

    def __call__(self, age: torch.Tensor, td_steps: int) -> torch.Tensor:
        """The n of each row.

        Args:
            age: int64 of any shape, in environment steps.
            td_steps: n at age 0, at least `min_td_steps`.

        Returns:
            int64 of the same shape.
        """
        rest = (self._max_age - age).clamp_min(0) * (td_steps - self.min_td_steps)
        return torch.div(rest + self._max_age - 1, self._max_age, rounding_mode="floor") + self.min_td_steps


@gin.configurable
class MixedValueTarget:
    """n-step returns early in the run and for fresh rows, the search's value for all others.

    Wang et al. 2024, "EfficientZero V2: mastering discrete and continuous control with limited data", on search-based
    value estimation. A search's value does not follow the actions of an old policy, but is worth no more than the model
    is. It is as old as the row unless the row is reanalysed, so this is for `Reanalysis.ratio = 1`.

    Args:
        initial_updates: gradient steps of the run in which all targets are n-step returns, at least 0.
        fresh_env_steps: rows younger than this keep n-step returns; in environment steps of the run, at least 0.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, initial_updates: int = gin.REQUIRED, fresh_env_steps: int = gin.REQUIRED):
        check_at_least("MixedValueTarget.initial_updates", initial_updates, 0)
        check_at_least("MixedValueTarget.fresh_env_steps", fresh_env_steps, 0)
        self._initial_updates = initial_updates
        self._fresh_env_steps = fresh_env_steps

    def searched(self, age: torch.Tensor, updates: int) -> torch.Tensor:
        """Where the search's value is the target: bool, of the shape of `age`.

        Args:
            age: int64 of any shape, in environment steps.
            updates: gradient steps done.
        """
        if updates < self._initial_updates:
            return torch.zeros_like(age, dtype=torch.bool)
        return age >= self._fresh_env_steps
