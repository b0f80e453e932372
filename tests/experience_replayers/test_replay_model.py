"""The replay buffer against a plain list of rows."""

import copy

import hypothesis
import numpy as np
import torch
from hypothesis import strategies

from alfish import nest
from alfish.data_structures import RowsNeeded
from alfish.experience_replayers.replay_buffer import ReplayBuffer


class EverySampler:
    """Draws every allowed row once."""

    def sample(self, batch_size, first, last, num_envs, generator):
        position, env_id = np.meshgrid(np.arange(first, last + 1), np.arange(num_envs), indexing="ij")
        return position.reshape(-1), env_id.reshape(-1)


def _begin(letters: str, position: int) -> int:
    while position > 0 and letters[position] != "F" and letters[position - 1] != "L":
        position -= 1
    return position


def _end(letters: str, position: int) -> int:
    while position + 1 < len(letters) and letters[position] != "L" and letters[position + 1] != "F":
        position += 1
    return position


def _expected_positions(letters: str, position: int, segment_length: int, needed: RowsNeeded) -> list[int]:
    last = position + segment_length - 1
    begin, end = _begin(letters, position), _end(letters, last)
    past = [max(begin, position - offset) for offset in range(needed.past, 0, -1)]
    future = [min(end, last + offset) for offset in range(1, needed.future + 1)]
    return past + list(range(position, last + 1)) + future


@strategies.composite
def _cases(draw):
    num_envs = draw(strategies.integers(1, 3))
    future = draw(strategies.integers(0, 4))
    needed = RowsNeeded(draw(strategies.integers(0, 3)), future, draw(strategies.integers(0, future)))
    segment_length = draw(strategies.integers(1, 3))
    length = needed.past + segment_length + future + draw(strategies.integers(0, 6))
    # Mostly as environments do, but also rows out of order: a FIRST row without a LAST row before it, cuts.
    rows = strategies.text(alphabet="MMMFLMM", min_size=1)
    windows = []
    for _ in range(draw(strategies.integers(1, 6))):
        num_rows = draw(strategies.integers(1, length))
        windows.append([draw(rows.map(lambda text, n=num_rows: (text * n)[:n])) for _ in range(num_envs)])
    return num_envs, needed, segment_length, length, windows, draw(strategies.integers(0, len(windows)))


@hypothesis.settings(max_examples=60, derandomize=True, deadline=None, database=None)
@hypothesis.given(case=_cases())
def test_every_block_is_that_of_a_list_of_rows(experience_spec, make_window, case):
    num_envs, needed, segment_length, length, windows, resume_at = case
    replay = ReplayBuffer(experience_spec, num_envs, length * num_envs, needed, segment_length, EverySampler())
    letters = [""] * num_envs
    for number, window in enumerate(windows):
        if number == resume_at:
            state = copy.deepcopy(replay.state_dict())
            replay = ReplayBuffer(experience_spec, num_envs, length * num_envs, needed, segment_length, EverySampler())
            replay.load_state_dict(state)
        replay.append(make_window(window, len(letters[0])))
        letters = [before + new for before, new in zip(letters, window, strict=True)]
        num_rows = len(letters[0])
        first, last = max(0, num_rows - length) + needed.past, num_rows - segment_length
        if first > last:
            continue
        batch = replay.sample((last - first + 1) * num_envs, np.random.default_rng(0))
        starts = [(position, env_id) for position in range(first, last + 1) for env_id in range(num_envs)]
        blocks = [_expected_positions(letters[env_id], start, segment_length, needed) for start, env_id in starts]
        assert batch.batch_info.position.tolist() == blocks

        history = make_window(letters, 0)
        row = torch.tensor(blocks)
        env_id = torch.tensor([env_id for _, env_id in starts])[:, None]
        expected = nest.map_structure(lambda leaf, row=row, env_id=env_id: leaf[row, env_id], history)
        num_observations = needed.past + segment_length + needed.future_observations
        observation = nest.map_structure(
            lambda leaf, num_observations=num_observations: leaf[:, :num_observations], expected.time_step.observation
        )
        expected = expected._replace(time_step=expected.time_step._replace(observation=observation))
        nest.map_structure(torch.testing.assert_close, batch.experience, expected)
