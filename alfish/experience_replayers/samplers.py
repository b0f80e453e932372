"""Which rows to train on: what every sampler does, and the uniform one.

A sampler knows which rows may begin a segment and nothing of what they hold. Letters: B environments, L rows of each
that are kept, n rows of a batch.
"""

from typing import Any, NamedTuple, Protocol

import gin
import numpy as np


class SampledRows(NamedTuple):
    """Rows, each named by its environment and its number among the rows of that environment.

    Attributes:
        position: int64 `[n]`.
        env_id: int64 `[n]`.
    """

    position: np.ndarray
    env_id: np.ndarray


class Drawn(NamedTuple):
    """What a sampler draws.

    Attributes:
        rows: the first rows of the segments of a batch.
        importance_weight: float32 `[n]`, in (0, 1] and 1 for the least likely row: what the loss of each is multiplied
            by; None if all rows are equally likely.
    """

    rows: SampledRows
    importance_weight: np.ndarray | None


class Sampler(Protocol):
    """Chooses the first rows of the segments of a batch. It belongs to one buffer, which uses it under a lock.

    Attributes:
        draws_by_priority: whether it needs `update_priorities`; False if that changes nothing.
    """

    draws_by_priority: bool

    def reserve(self, num_envs: int, length: int) -> None:
        """Takes the memory that is needed; called once, before anything else.

        Args:
            num_envs: B.
            length: L.

        Raises:
            ValueError: it was called before: the sampler belongs to another buffer.
        """

    def predicted_bytes(self, num_envs: int, length: int) -> int:
        """Bytes that are taken for B environments with L rows each; reckoned, not allocated."""

    def allow(self, first: np.ndarray, last: np.ndarray) -> None:
        """Says which rows may be drawn from now on.

        Called after every append, and after `load_state_dict`, since another segment length allows other rows. A
        sampler with priorities gives rows that become allowed the largest priority so far, and forgets those of rows
        that no longer are.

        Args:
            first: int64 `[B]`, the lowest position that is allowed, by environment.
            last: int64 `[B]`, the highest; no row of an environment is allowed where it is below `first`. At most L
                rows of an environment are.
        """

    def sample(self, batch_size: int, generator: np.random.Generator, fraction: float) -> Drawn:
        """Draws rows, with replacement.

        Args:
            batch_size: n, how many.
            generator: the only source of randomness.
            fraction: of the run that is done, in [0, 1], for schedules.

        Raises:
            ValueError: no row is allowed.
        """

    def probability(self, rows: SampledRows) -> np.ndarray:
        """The probability with which one draw, averaged over a batch, is each row; float64 `[n]`."""

    def importance_weight(self, probability: np.ndarray, fraction: float) -> np.ndarray | None:
        """Weights for rows that were drawn with the given probabilities, by this sampler or by a mix with it.

        Args:
            probability: float64 `[n]`, positive; or numbers in proportion to it.
            fraction: of the run that is done.

        Returns:
            See Drawn.
        """

    def update_priorities(self, rows: SampledRows, priority: np.ndarray) -> None:
        """Says how much is to be learned from rows. Rows that are not allowed (any more) are ignored.

        Args:
            rows: as drawn; where one occurs twice, its last priority counts.
            priority: `[n]`, any dtype, finite, at least 0.

        Raises:
            ValueError: a priority is NaN, infinite or negative, or there is not one for each row. Nothing has been
                changed then.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold. Tensors are views: write them before the next append or update."""

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that `load_state_dict` would accept `state`, after `reserve`.

        Raises:
            ValueError: it is another sampler's, of another size, or damaged.
        """

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned, after `reserve`; an `allow` for the loaded rows must follow.

        Raises:
            ValueError: see `check_state_dict`. Nothing has been changed then.
        """


class AllowedRows:
    """The rows that may be drawn: `first[b], ..., last[b]` of each environment b.

    Attributes:
        first: int64 `[B]`.
        last: int64 `[B]`.
        num_rows: how many rows are allowed, over all environments.
    """

    def __init__(self) -> None:
        self.reserve(0)

    @staticmethod
    def predicted_bytes(num_envs: int) -> int:
        """Bytes that are taken for B environments."""
        return 3 * 8 * num_envs

    def reserve(self, num_envs: int) -> None:
        """Begins anew for B environments, without allowed rows."""
        self.set(np.zeros(num_envs, np.int64), np.full(num_envs, -1, np.int64))

    def set(self, first: np.ndarray, last: np.ndarray) -> None:
        """Changes the bounds; copies them."""
        self.first, self.last = first.copy(), last.copy()
        self._end = np.cumsum(np.maximum(last - first + 1, 0))
        self.num_rows = int(self._end[-1]) if len(self._end) else 0

    def draw(self, num_rows: int, generator: np.random.Generator) -> SampledRows:
        """Draws rows, each with the same probability, with replacement.

        Raises:
            ValueError: no row is allowed.
        """
        if not self.num_rows:
            raise ValueError("a sampler was asked for rows, but none is allowed; append rows to its buffer first")
        draw = generator.integers(self.num_rows, size=num_rows)
        env_id = np.searchsorted(self._end, draw, side="right")
        return SampledRows(self.last[env_id] + 1 - (self._end[env_id] - draw), env_id)

    def contains(self, rows: SampledRows) -> np.ndarray:
        """Bool `[n]`, whether each row is allowed; `rows.env_id` must be below B."""
        return (self.first[rows.env_id] <= rows.position) & (rows.position <= self.last[rows.env_id])

    def probability(self, rows: SampledRows) -> np.ndarray:
        """Float64 `[n]`, the probability with which `draw` draws each row."""
        return self.contains(rows) / max(self.num_rows, 1)


@gin.configurable
class UniformSampler:
    """Every allowed row is equally likely, with replacement. See Sampler for the methods."""

    draws_by_priority = False

    def __init__(self) -> None:
        self._allowed = AllowedRows()

    def reserve(self, num_envs: int, length: int) -> None:
        check_not_reserved(self, self._allowed)
        self._allowed.reserve(num_envs)

    def predicted_bytes(self, num_envs: int, length: int) -> int:
        return AllowedRows.predicted_bytes(num_envs)

    def allow(self, first: np.ndarray, last: np.ndarray) -> None:
        self._allowed.set(first, last)

    def sample(self, batch_size: int, generator: np.random.Generator, fraction: float) -> Drawn:
        return Drawn(self._allowed.draw(batch_size, generator), None)

    def probability(self, rows: SampledRows) -> np.ndarray:
        return self._allowed.probability(rows)

    def importance_weight(self, probability: np.ndarray, fraction: float) -> np.ndarray | None:
        return None

    def update_priorities(self, rows: SampledRows, priority: np.ndarray) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"sampler": type(self).__name__}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        check_sampler_state(state, self.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.check_state_dict(state)


def check_not_reserved(sampler: Sampler, allowed: AllowedRows) -> None:
    """Checks that a sampler belongs to no buffer yet.

    Raises:
        ValueError: it does.
    """
    if len(allowed.first):
        raise ValueError(
            f"{type(sampler).__name__}: one sampler was given to two replay buffers; give each a sampler of its own"
        )


def check_sampler_state(state: Any, own: dict[str, Any]) -> None:
    """Checks that a saved state is from a sampler of the same class, and has the same keys.

    Raises:
        ValueError: it is not.
    """
    found = state.get("sampler") if isinstance(state, dict) else None
    if found != own["sampler"]:
        raise ValueError(
            f"the checkpoint's replay was sampled by {found or 'an unknown sampler'}, this run samples with "
            f"{own['sampler']}; bind ReplayBuffer.sampler = @{found}() as in that run, or start without its replay"
        )
    if state.keys() != own.keys():
        raise ValueError(f"{own['sampler']}: the state holds {sorted(state)}, expected {sorted(own)}; it is damaged")
