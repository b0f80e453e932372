"""The replay buffer, with every sampler and every storage, against plain lists of rows and priorities."""

import copy
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies

from alfish import nest
from alfish.data_structures import RowsNeeded, TailNeeded
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.recent_mix import RecentMix
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import SampledRows, UniformSampler
from alfish.experience_replayers.storage import MappedStorage, MemoryStorage

GAMMA, RECENT_RATIO, RECENT_ROWS = 0.5, 0.25, 3


class Case(NamedTuple):
    num_envs: int
    needed: RowsNeeded
    segment_length: int
    length: int
    operations: list


class Rows:
    """What a buffer should hold: a string of step types and a dict of priorities for each environment."""

    def __init__(self, case: Case):
        self.case = case
        self.letters = [""] * case.num_envs
        self.priority: dict[tuple[int, int], float] = {}
        self.largest = 1.0

    def append(self, windows: list[str], first_env: int):
        for env, window in enumerate(windows, first_env):
            self.letters[env] += window
        self.priority = {row: self.priority.get(row, self.largest) for row in self.allowed()}

    def allowed(self) -> list[tuple[int, int]]:
        past, segment, length = self.case.needed.past, self.case.segment_length, self.case.length
        return [
            (position, env)
            for env, rows in enumerate(self.letters)
            for position in range(max(0, len(rows) - length) + past, len(rows) - segment + 1)
        ]

    def update(self, rows: list[tuple[int, int]], priorities: list[float]):
        for row, priority in zip(rows, priorities, strict=True):
            if row in self.priority:
                self.priority[row] = priority
                self.largest = max(self.largest, priority)

    def probability(self, row: tuple[int, int]) -> float:
        total = sum(self.priority.values())
        return self.priority[row] / total if total else 1 / len(self.priority)

    def is_recent(self, row: tuple[int, int]) -> bool:
        per_env = -(-RECENT_ROWS // self.case.num_envs)
        return row[0] > len(self.letters[row[1]]) - self.case.segment_length - per_env

    def begin(self, env: int, position: int) -> int:
        rows = self.letters[env]
        while position > 0 and rows[position] != "F" and rows[position - 1] != "L":
            position -= 1
        return position

    def end(self, env: int, position: int) -> int:
        rows = self.letters[env]
        while position + 1 < len(rows) and rows[position] != "L" and rows[position + 1] != "F":
            position += 1
        return position

    def block(self, position: int, env: int) -> list[int]:
        last = position + self.case.segment_length - 1
        begin, end = self.begin(env, position), self.end(env, last)
        past = [max(begin, position - offset) for offset in range(self.case.needed.past, 0, -1)]
        future = [min(end, last + offset) for offset in range(1, self.case.needed.future + 1)]
        return past + list(range(position, last + 1)) + future

    def tail(self, last: int, env: int) -> tuple[float, float]:
        """Sum and product from the row after `last` on, of rewards and discounts as make_window makes them."""
        end, total, weight = self.end(env, last), 0.0, 1.0
        for row in range(last + 1, end + 1):
            total += weight * (row + 0.25 * env)
            weight *= GAMMA * (0.0 if self.letters[env][row] == "L" else 1.0)
        return total, weight


@strategies.composite
def _cases(draw):
    num_envs = draw(strategies.integers(1, 3))
    future = draw(strategies.integers(0, 4))
    tail = draw(strategies.sampled_from([None, TailNeeded(GAMMA)]))
    needed = RowsNeeded(draw(strategies.integers(0, 3)), future, draw(strategies.integers(0, future)), tail)
    segment_length = draw(strategies.integers(1, 3))
    length = needed.past + segment_length + future + draw(strategies.integers(0, 6))
    # Mostly as environments do, but also rows out of order: a FIRST row without a LAST row before it, cuts.
    letters = strategies.text(alphabet="MMMFLMM", min_size=1)
    operations = []
    for _ in range(draw(strategies.integers(1, 9))):
        name = draw(
            strategies.sampled_from(["append", "append", "append", "update", "bad update", "bad append", "load"])
        )
        if name == "append":
            first_env = draw(strategies.sampled_from([0, 0, num_envs - 1]))
            last_env = draw(strategies.integers(first_env, num_envs - 1))
            num_rows = draw(strategies.integers(1, length))
            rows = letters.map(lambda text, n=num_rows: (text * n)[:n])
            operations.append((name, (first_env, [draw(rows) for _ in range(first_env, last_env + 1)])))
        else:
            operations.append((name, draw(strategies.integers(0, 2**32))))
    return Case(num_envs, needed, segment_length, length, operations)


@pytest.fixture(scope="session")
def new_storage(tmp_path_factory):
    def make(on_disk):
        return MappedStorage(tmp_path_factory.mktemp("replay")) if on_disk else MemoryStorage()

    return make


@pytest.mark.parametrize("sampler_name", ["every", "uniform", "prioritized", "mix"])
@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "mapped"])
@hypothesis.settings(max_examples=40, derandomize=True, deadline=None, database=None)
@hypothesis.given(case=_cases())
def test_all_operations(experience_spec, make_window, given_rows, new_storage, sampler_name, on_disk, case):
    def build():
        prioritized = PrioritizedSampler(alpha=1.0, beta=1.0, epsilon=0.0)
        samplers = {
            "every": given_rows(),
            "uniform": UniformSampler(),
            "prioritized": prioritized,
            "mix": RecentMix(prioritized, RECENT_RATIO, RECENT_ROWS),
        }
        sampler, arguments = samplers[sampler_name], (case.needed, case.segment_length)
        capacity = case.length * case.num_envs
        return sampler, ReplayBuffer(
            experience_spec, case.num_envs, capacity, *arguments, sampler, new_storage(on_disk)
        )

    rows = Rows(case)
    sampler, replay = build()
    for name, argument in case.operations:
        if name == "append":
            first_env, windows = argument
            starts = [len(rows.letters[env]) for env in range(first_env, first_env + len(windows))]
            replay.append(make_window(windows, starts, first_env), first_env)
            rows.append(windows, first_env)
        elif name == "load":
            state = copy.deepcopy(replay.state_dict())
            sampler, replay = build()
            replay.load_state_dict(state)
        elif name == "bad append":
            window = make_window(["M"] * case.num_envs, [len(letters) for letters in rows.letters])
            with pytest.raises(ValueError, match="Ring.append: window leaf 'rollout_info.value'"):
                replay.append(window._replace(rollout_info={"value": window.rollout_info["value"].double()}))
        else:
            _update(replay, rows, np.random.default_rng(argument), sampler_name, is_good=name == "update")
        assert replay.num_rows == sum(min(len(letters), case.length) for letters in rows.letters)
        assert replay.total_rows == sum(map(len, rows.letters))
        _check_sample(replay, rows, sampler, sampler_name, make_window)


def _update(replay, rows, generator, sampler_name, is_good):
    """Gives priorities to rows that are there and rows that are not, some twice; or bad ones, which change nothing."""
    newest = max(map(len, rows.letters))
    chosen = [
        (int(generator.integers(newest + 2)), int(generator.integers(rows.case.num_envs)))
        for _ in range(generator.integers(1, 20))
    ]
    # All are exact in float32, so that sums are exact too. Often all 0.
    priorities = (generator.integers(0, 4, len(chosen)) * generator.integers(2)).astype(float)
    sampled = SampledRows(*(np.array(column, np.int64) for column in zip(*chosen, strict=True)))
    if is_good:
        replay.update_priorities(sampled, priorities)
        rows.update(chosen, priorities.tolist())
    elif sampler_name in ("prioritized", "mix"):
        priorities[-1] = generator.choice([np.nan, np.inf, -np.inf, -1.0])
        with pytest.raises(ValueError, match=rf"priority\[{len(chosen) - 1}\] is "):
            replay.update_priorities(sampled, priorities)


def _check_sample(replay, rows, sampler, sampler_name, make_window):
    allowed = rows.allowed()
    assert replay.can_sample == bool(allowed)
    if not allowed:
        with pytest.raises(ValueError, match="of one are needed"):
            replay.sample(1, np.random.default_rng(0))
        return
    if sampler_name == "every":
        sampler.position, sampler.env_id = zip(*allowed, strict=True)
    batch = replay.sample(7, np.random.default_rng(0))
    drawn = list(zip(batch.rows.position.tolist(), batch.rows.env_id.tolist(), strict=True))
    assert drawn == allowed if sampler_name == "every" else set(drawn) <= set(allowed)
    _check_weights(batch.batch_info.importance_weight, drawn, rows, sampler_name)
    _check_rows(batch, [(env, rows.block(position, env)) for position, env in drawn], rows, make_window)


def _check_weights(weight, drawn, rows, sampler_name):
    if sampler_name in ("every", "uniform"):
        assert weight == ()
        return
    probability = [rows.probability(row) for row in drawn]
    if sampler_name == "mix":
        num_recent = round(RECENT_RATIO * len(drawn))
        assert all(rows.is_recent(row) for row in drawn[-num_recent:])
        share = num_recent / len(drawn)
        recent = [row for row in rows.allowed() if rows.is_recent(row)]
        probability = [
            (1 - share) * p + share * (row in recent) / len(recent) for p, row in zip(probability, drawn, strict=True)
        ]
    assert min(probability) > 0
    np.testing.assert_allclose(weight, [min(probability) / p for p in probability], rtol=1e-5)


def _check_rows(batch, blocks, rows, make_window):
    case, info = rows.case, batch.batch_info
    assert info.position.tolist() == [block for _, block in blocks]
    ages = [[(len(rows.letters[env]) - 1 - row) * case.num_envs for row in block] for env, block in blocks]
    assert info.age.tolist() == ages

    longest = max(map(len, rows.letters))
    history = make_window([letters.ljust(longest, "M") for letters in rows.letters], 0)
    row = torch.tensor([block for _, block in blocks])
    env_id = torch.tensor([env for env, _ in blocks])
    expected = nest.map_structure(lambda leaf: leaf[row, env_id[:, None]], history)
    num_observations = case.needed.past + case.segment_length + case.needed.future_observations
    observation = nest.map_structure(lambda leaf: leaf[:, :num_observations], expected.time_step.observation)
    expected = expected._replace(time_step=expected.time_step._replace(observation=observation))
    nest.map_structure(torch.testing.assert_close, batch.experience, expected)

    if case.needed.tail is None:
        assert info.tail == ()
        return
    tails = [rows.tail(block[-1], env) for env, block in blocks]
    np.testing.assert_allclose(info.tail.reward, [reward for reward, _ in tails], rtol=1e-6)
    assert info.tail.discount.tolist() == [discount for _, discount in tails]
    ends = torch.tensor([rows.end(env, block[-1]) for env, block in blocks])
    assert torch.equal(info.tail.rollout_info["value"], history.rollout_info["value"][ends, env_id])
