"""Rows drawn in proportion to how much is to be learned from them (Schaul et al. 2016)."""

from typing import Any

import gin
import numpy as np
import torch

from alfish.experience_replayers.checks import check_tensors
from alfish.experience_replayers.samplers import (
    AllowedRows,
    Drawn,
    SampledRows,
    check_not_reserved,
    check_sampler_state,
)
from alfish.experience_replayers.sum_tree import SumTree
from alfish.ops.compilation import compile_cached
from alfish.ops.schedules import Schedule, as_schedule

_INITIAL_PRIORITY = 1.0
_LARGEST_PRIORITY = float(np.finfo(np.float32).max)
_ALPHA_STEP = 0.01
"""By how much alpha moves before the tree is made anew: from 0 to 1 that is a hundred times."""
_CHECKED_TOGETHER = 1 << 16
"""Priorities; all at once would take many times their memory while a checkpoint is read."""


@gin.configurable
class PrioritizedSampler:
    """Draws row i with probability P(i) = p_i^alpha / sum_j p_j^alpha over the allowed rows.

    Section 3.3 of Prioritized Experience Replay (Schaul et al. 2016), in the proportional variant: p_i is the priority
    that was last given for the row, plus epsilon. A row that becomes allowed has the largest p_i that any row has had
    so far; it is 1 in the beginning. The total of all p_j^alpha is cut into n equal shares and one row is drawn from
    each (stratified sampling). A row with p_i = 0, which epsilon = 0 admits, is not drawn, whatever alpha is; where all
    p_i are 0, all rows are equally likely.

    The weights that correct for it (section 3.4) are w_i = (N P(i))^-beta over the largest of the batch, where N is the
    number of allowed rows.

    A batch costs O(n log(B L)), an append of T rows O(T B log(B L)). With a schedule for alpha all sums are made anew,
    in O(B L), each time it has moved by 0.01, so that it may differ from its schedule by that much.

    See Sampler for the methods.

    Args:
        alpha: 0 to 1, how much priorities matter: 0 makes all rows equally likely. A number or a schedule.
        beta: 0 to 1, how much of that the weights correct: 1 does so fully. A number or a schedule; the paper lets it
            rise to 1 at the end of the run.
        epsilon: added to every priority that is given, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    draws_by_priority = True

    def __init__(
        self, alpha: float | Schedule = gin.REQUIRED, beta: float | Schedule = gin.REQUIRED, epsilon: float = 1e-6
    ):
        self._alpha_schedule = as_schedule(alpha, "PrioritizedSampler.alpha", minimum=0.0)
        self._beta_schedule = as_schedule(beta, "PrioritizedSampler.beta", minimum=0.0)
        for name, schedule in (("alpha", self._alpha_schedule), ("beta", self._beta_schedule)):
            largest = max(schedule(step / 100) for step in range(101))
            if largest > 1.0:
                raise ValueError(f"PrioritizedSampler.{name} rises to {largest}; expected 0 to 1 in the whole run")
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"PrioritizedSampler.epsilon is {epsilon}; expected 0 to 1, such as 1e-6")
        self._epsilon = epsilon
        self._alpha = self._alpha_schedule(0.0)
        self._largest = _INITIAL_PRIORITY
        self._allowed = AllowedRows()

    def reserve(self, num_envs: int, length: int) -> None:
        check_not_reserved(self, self._allowed)
        self._allowed.reserve(num_envs)
        self._num_envs, self._length = num_envs, length
        # Kept beside their powers in the tree, since alpha may change. The system gives memory as it is written.
        self._priority = np.zeros(num_envs * length, np.float32)
        self._tree = SumTree(num_envs * length)

    def predicted_bytes(self, num_envs: int, length: int) -> int:
        num_rows = num_envs * length
        return AllowedRows.predicted_bytes(num_envs) + 4 * num_rows + SumTree.predicted_bytes(num_rows)

    def allow(self, first: np.ndarray, last: np.ndarray) -> None:
        assert (last - first < self._length).all()
        before, new = self._allowed, self._largest
        self._set_ranges(before.first, np.minimum(before.last, first - 1), 0.0)
        self._set_ranges(np.maximum(before.first, last + 1), before.last, 0.0)
        self._set_ranges(first, np.minimum(last, before.first - 1), new)
        self._set_ranges(np.maximum(first, before.last + 1), last, new)
        self._allowed.set(first, last)

    def sample(self, batch_size: int, generator: np.random.Generator, fraction: float) -> Drawn:
        if abs(self._alpha_schedule(fraction) - self._alpha) > _ALPHA_STEP:
            self._alpha = self._alpha_schedule(fraction)
            self._tree.set_all(self._powers(self._priority))
        if self._tree.total == 0.0:
            return Drawn(self._allowed.draw(batch_size, generator), np.ones(batch_size, np.float32))
        slot = self._tree.draw(generator.random(batch_size))
        rows, power = SampledRows(np.empty_like(slot), np.empty_like(slot)), np.empty(batch_size)
        _look_up(slot, self._tree.leaves, self._allowed.first, self._length, *rows, power)
        return Drawn(rows, self.importance_weight(power, fraction))

    def probability(self, rows: SampledRows) -> np.ndarray:
        total = self._tree.total
        if total == 0.0:
            return self._allowed.probability(rows)
        return np.where(self._allowed.contains(rows), self._tree.leaves[self._slots(rows)] / total, 0.0)

    def importance_weight(self, probability: np.ndarray, fraction: float) -> np.ndarray:
        # The least likely row has the weight 1; N cancels, and so does what all probabilities are multiplied by.
        weight = (probability.min() / probability) ** self._beta_schedule(fraction)
        return weight.astype(np.float32)

    def update_priorities(self, rows: SampledRows, priority: np.ndarray) -> None:
        given = np.asarray(priority, np.float64)
        _check_priorities(rows, given)
        allowed = self._allowed.contains(rows)
        stored = (given[allowed] + self._epsilon).astype(np.float32)
        self._set(self._slots(rows)[allowed], stored)
        self._largest = max(self._largest, float(stored.max(initial=0.0)))

    def state_dict(self) -> dict[str, Any]:
        used = min(self._length, int(self._allowed.last.max()) + 1) * self._num_envs
        return {
            "sampler": type(self).__name__,
            "length": self._length,
            "alpha": self._alpha,
            "largest": self._largest,
            "first": torch.from_numpy(self._allowed.first),
            "last": torch.from_numpy(self._allowed.last),
            "priority": torch.from_numpy(self._priority[:used]),
        }

    def check_state_dict(self, state: dict[str, Any]) -> None:
        own = self.state_dict()
        check_sampler_state(state, own)
        what = type(self).__name__
        if state["length"] != self._length:
            raise ValueError(f"{what}: the state is of {state['length']} rows per environment, not {self._length}")
        for name, low, high in (("alpha", 0.0, 1.0), ("largest", 0.0, _LARGEST_PRIORITY)):
            if not isinstance(state[name], float) or not low <= state[name] <= high:
                raise ValueError(
                    f"{what}: the state has {name}={state[name]!r}, expected {low} to {high}; it is damaged"
                )
        check_tensors([state["first"], state["last"]], [own["first"], own["last"]], what)
        first, last = state["first"].numpy(), state["last"].numpy()
        if first.min() < 0 or (last - first).max() >= self._length:
            raise ValueError(f"{what}: the state allows rows {first} to {last}; it is damaged")
        used = min(self._length, int(last.max()) + 1) * self._num_envs
        check_tensors([state["priority"]], [torch.from_numpy(self._priority[:used])], what)
        priority = state["priority"].numpy()
        rows, step = priority.reshape(-1, self._num_envs), max(1, _CHECKED_TOGETHER // self._num_envs)
        for begin in range(0, len(rows), step):
            part = rows[begin : begin + step]
            allowed = (np.arange(begin, begin + len(part))[:, None] - first) % self._length <= last - first
            wrong = np.argwhere(~((part >= 0) & (part <= np.where(allowed, _LARGEST_PRIORITY, 0.0))))
            if wrong.size:
                slot = (begin + wrong[0, 0]) * self._num_envs + wrong[0, 1]
                raise ValueError(f"{what}: the state has priority[{slot}]={priority[slot]}; it is damaged")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.check_state_dict(state)
        priority = state["priority"].numpy()
        self._priority[: len(priority)] = priority
        self._priority[len(priority) :] = 0
        self._alpha, self._largest = state["alpha"], state["largest"]
        self._allowed.set(state["first"].numpy(), state["last"].numpy())
        self._tree.set_all(self._powers(self._priority))

    def _slots(self, rows: SampledRows) -> np.ndarray:
        return rows.position % self._length * self._num_envs + rows.env_id

    def _range_slots(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The slots of rows first[b], ..., last[b] of each environment b, in the order of time."""
        position = first + np.arange((last - first).max() + 1)[:, None]
        return self._slots(SampledRows(position, np.arange(self._num_envs)))[position <= last]

    def _set_ranges(self, first: np.ndarray, last: np.ndarray, priority: float) -> None:
        if (first <= last).any():
            slot = self._range_slots(first, last)
            self._set(slot, np.full(len(slot), priority, np.float32))

    def _set(self, slot: np.ndarray, priority: np.ndarray) -> None:
        self._priority[slot] = priority
        self._tree.set(slot, self._powers(priority))

    def _powers(self, priority: np.ndarray) -> np.ndarray:
        """p^alpha, except that 0 stays 0. The same for a number wherever it stands, so that a resumed run is exact."""
        powers = np.power(priority, self._alpha, dtype=np.float64)
        if self._alpha == 0.0:
            powers[priority == 0] = 0.0
        return powers


@compile_cached
def _look_up(
    slot: np.ndarray,
    leaves: np.ndarray,
    first: np.ndarray,
    length: int,
    position: np.ndarray,
    env_id: np.ndarray,
    power: np.ndarray,
) -> None:
    """Writes the rows of slots that are allowed, and their leaves."""
    num_envs = len(first)
    for i in range(len(slot)):
        env = slot[i] % num_envs
        ahead = slot[i] // num_envs - first[env] % length
        position[i] = first[env] + (ahead if ahead >= 0 else ahead + length)
        env_id[i], power[i] = env, leaves[slot[i]]


def _check_priorities(rows: SampledRows, priority: np.ndarray) -> None:
    if priority.shape != rows.position.shape:
        raise ValueError(
            f"PrioritizedSampler.update_priorities: {len(rows.position)} rows, but priorities of shape "
            f"{priority.shape}; give one for each row"
        )
    wrong = np.flatnonzero(~((priority >= 0) & (priority <= _LARGEST_PRIORITY)))
    if wrong.size:
        raise ValueError(
            f"PrioritizedSampler.update_priorities: priority[{wrong[0]}] is {priority[wrong[0]]}, one of {wrong.size} "
            f"of {len(priority)} that cannot be used; expected finite numbers of at least 0. No priority was changed. "
            "Look at the loss that it comes from, or at the priority function"
        )
