"""A share of each batch from the newest rows."""

from typing import Any

import gin
import numpy as np

from alfish.checks import check_at_least
from alfish.experience_replayers.checks import check_part
from alfish.experience_replayers.samplers import (
    AllowedRows,
    Drawn,
    SampledRows,
    Sampler,
    UniformSampler,
    check_not_reserved,
    check_sampler_state,
)


@gin.configurable
class RecentMix:
    """Draws most of a batch by another sampler, and the rest uniformly from the newest rows.

    A row is then drawn with the probability (1 - r) P(i) + r / N_recent, the second term for recent rows only, where r
    is the share of the batch. If the other sampler corrects for unequal probabilities, the weights are made from this
    one. If it does not (UniformSampler), there are none: that recent rows are drawn more often is what is wanted.

    See Sampler for the methods.

    Args:
        sampler: draws the other part of the batch; `UniformSampler()` by default.
        recent_ratio: r, 0 to 1. The number of recent rows in a batch is rounded to the nearest whole one.
        recent_rows: how many rows count as recent, over all environments: of each of the B environments the newest
            recent_rows / B, rounded up, of those that are allowed.

    Raises:
        ValueError: an argument is out of range, or `sampler` is no sampler.
    """

    def __init__(
        self, sampler: Sampler | None = None, recent_ratio: float = gin.REQUIRED, recent_rows: int = gin.REQUIRED
    ):
        if not 0.0 <= recent_ratio <= 1.0:
            raise ValueError(f"RecentMix.recent_ratio is {recent_ratio}; expected a share of the batch, from 0 to 1")
        check_at_least("RecentMix.recent_rows", recent_rows, 1)
        self._sampler = UniformSampler() if sampler is None else sampler
        check_part("RecentMix.sampler", self._sampler, Sampler)
        self.draws_by_priority = self._sampler.draws_by_priority
        self._recent_ratio = recent_ratio
        self._recent_rows = recent_rows
        self._recent = AllowedRows()

    def reserve(self, num_envs: int, length: int) -> None:
        check_not_reserved(self, self._recent)
        self._sampler.reserve(num_envs, length)
        self._recent.reserve(num_envs)
        self._recent_per_env = -(-self._recent_rows // num_envs)

    def predicted_bytes(self, num_envs: int, length: int) -> int:
        return self._sampler.predicted_bytes(num_envs, length) + AllowedRows.predicted_bytes(num_envs)

    def allow(self, first: np.ndarray, last: np.ndarray) -> None:
        self._sampler.allow(first, last)
        self._recent.set(np.maximum(first, last - self._recent_per_env + 1), last)

    def sample(self, batch_size: int, generator: np.random.Generator, fraction: float) -> Drawn:
        num_recent = round(self._recent_ratio * batch_size)
        recent = self._recent.draw(num_recent, generator)
        if num_recent == batch_size:
            rows = recent
        else:
            others = self._sampler.sample(batch_size - num_recent, generator, fraction).rows
            rows = SampledRows(*map(np.concatenate, zip(others, recent, strict=True)))
        probability = self._mixed(rows, num_recent / batch_size)
        return Drawn(rows, self._sampler.importance_weight(probability, fraction))

    def probability(self, rows: SampledRows) -> np.ndarray:
        return self._mixed(rows, self._recent_ratio)

    def importance_weight(self, probability: np.ndarray, fraction: float) -> np.ndarray | None:
        return self._sampler.importance_weight(probability, fraction)

    def update_priorities(self, rows: SampledRows, priority: np.ndarray) -> None:
        self._sampler.update_priorities(rows, priority)

    def state_dict(self) -> dict[str, Any]:
        return {"sampler": type(self).__name__, "mixed": self._sampler.state_dict()}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        check_sampler_state(state, {"sampler": type(self).__name__, "mixed": None})
        self._sampler.check_state_dict(state["mixed"])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.check_state_dict(state)
        self._sampler.load_state_dict(state["mixed"])

    def _mixed(self, rows: SampledRows, recent_ratio: float) -> np.ndarray:
        others, recent = self._sampler.probability(rows), self._recent.probability(rows)
        return (1.0 - recent_ratio) * others + recent_ratio * recent
