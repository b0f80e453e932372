"""MuZero targets against tables worked out by hand."""

import pytest
import torch

from alfish.algorithms.muzero_targets import bootstrap_rows, episode_end_rows, muzero_targets, value_targets
from alfish.data_structures import StepType, TimeStep

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST


def make_rows(step_types, rewards, discounts, actions):
    length = len(step_types)
    return TimeStep(
        step_type=torch.tensor([step_types], dtype=torch.uint8),
        reward=torch.tensor([rewards], dtype=torch.float32),
        discount=torch.tensor([discounts], dtype=torch.float32),
        observation=(),
        prev_action=torch.tensor([actions]),
        env_id=torch.zeros(1, length, dtype=torch.int32),
    )


def make_targets(rows, positions, values, num_unroll_steps, num_bootstrap_steps, gamma):
    length = rows.reward.shape[1]
    # The policy of row i puts all weight on action i, so that a target shows which row it came from.
    policy = torch.eye(length).unsqueeze(0)
    return muzero_targets(
        rows,
        episode_end_rows(rows.is_last(), torch.tensor([positions])),
        rows.prev_action,
        policy,
        torch.tensor([values], dtype=torch.float32),
        num_unroll_steps,
        num_bootstrap_steps,
        gamma,
    )


@pytest.mark.parametrize(
    ("is_last", "position", "expected"),
    [
        ([0, 0, 1, 0, 0], [0, 1, 2, 3, 4], [2, 2, 2, 4, 4]),  # an end inside; the block's last row counts as one
        ([0, 1, 0, 1, 0], [0, 1, 2, 3, 4], [1, 1, 3, 3, 4]),
        ([0, 0, 0, 0, 0], [5, 6, 7, 7, 7], [2, 2, 2, 3, 4]),  # an open episode whose newest row is 7
        ([0, 1, 1, 1, 1], [5, 6, 6, 6, 6], [1, 1, 2, 3, 4]),  # an end, repeated by the buffer
    ],
)
def test_episode_end_rows(is_last, position, expected):
    ends = episode_end_rows(torch.tensor([is_last], dtype=torch.bool), torch.tensor([position]))
    assert ends.tolist() == [expected]


def test_bootstrap_rows():
    # Two steps on, or the end of the episode.
    assert bootstrap_rows(torch.tensor([[1, 1, 5, 5, 5, 5]]), num_steps=2, num_rows=4).tolist() == [[1, 1, 4, 5]]


def test_value_targets_by_hand():
    # Rows 0 1 2 3; the game ends at row 2, γ = 1/2, n = 2, V = 8 everywhere.
    #   z(0) = r1 + γ r2 + γ² · 0 · V = 1 + 2/2 = 2     z(1) = r2 = 2     z(2) = 0, the game is over
    values = value_targets(
        reward=torch.tensor([[0.0, 1.0, 2.0, 0.0]]),
        discount=torch.tensor([[1.0, 1.0, 0.0, 1.0]]),
        value=torch.full((1, 4), 8.0),
        end_row=torch.tensor([[2, 2, 2, 3]]),
        num_steps=2,
        gamma=0.5,
    )
    assert values.tolist() == [[2.0, 2.0, 0.0]]


def test_value_targets_bootstrap_at_a_time_limit():
    # The same with discount 1 at row 2: z(0) = 1 + 2/2 + 8/4 = 4, z(1) = 2 + 8/2 = 6, z(2) = V = 8.
    values = value_targets(
        reward=torch.tensor([[0.0, 1.0, 2.0, 0.0]]),
        discount=torch.ones(1, 4),
        value=torch.full((1, 4), 8.0),
        end_row=torch.tensor([[2, 2, 2, 3]]),
        num_steps=2,
        gamma=0.5,
    )
    assert values.tolist() == [[4.0, 6.0, 8.0]]


def test_targets_inside_an_episode():
    rows = make_rows([F, M, M, M, M], [0, 1, 2, 3, 4], [1] * 5, [0, 10, 20, 30, 40])
    targets = make_targets(rows, range(5), [5, 6, 7, 8, 9], num_unroll_steps=2, num_bootstrap_steps=1, gamma=0.5)
    # T = 5 − 2 − 1 = 2 starts. z(c) = r[c+1] + V[c+1]/2: z(0..3) = 1+3, 2+3.5, 3+4, 4+4.5.
    assert targets.action.tolist() == [[[10, 20], [20, 30]]]
    assert targets.reward.tolist() == [[[0, 1, 2], [1, 2, 3]]]
    assert targets.value.tolist() == [[[4.0, 5.5, 7.0], [5.5, 7.0, 8.5]]]
    assert targets.policy.argmax(-1).tolist() == [[[0, 1, 2], [1, 2, 3]]]
    assert not targets.beyond_episode_end.any()
    assert not targets.game_over.any()
    assert targets.is_partial.tolist() == [[True, True]]


def test_targets_at_the_end_of_a_game():
    rows = make_rows([F, M, L, F, M], [0, 1, 2, 0, 5], [1, 1, 0, 1, 1], [0, 10, 20, 0, 40])
    targets = make_targets(rows, range(5), [9] * 5, num_unroll_steps=2, num_bootstrap_steps=1, gamma=1.0)
    # From row 0: rows 0 1 2; from row 1: rows 1 2 and, beyond the end, 2 again with reward 0.
    assert targets.action.tolist() == [[[10, 20], [20, 20]]]
    assert targets.reward.tolist() == [[[0, 1, 2], [1, 2, 0]]]
    assert targets.value.tolist() == [[[10.0, 2.0, 0.0], [2.0, 0.0, 0.0]]]
    assert targets.beyond_episode_end.tolist() == [[[False] * 3, [False, False, True]]]
    assert targets.game_over.tolist() == [[[False, False, True], [False, True, True]]]
    assert targets.is_partial.tolist() == [[False, False]]


def test_targets_at_a_time_limit():
    rows = make_rows([M, L, F, M], [1, 2, 0, 5], [1] * 4, [10, 20, 0, 40])
    targets = make_targets(rows, range(4), [7, 8, 9, 9], num_unroll_steps=2, num_bootstrap_steps=1, gamma=1.0)
    # z(0) = 2 + V[1] = 10, z(1) = V[1] = 8, which is also what stands, masked by is_partial, beyond the limit.
    assert targets.value.tolist() == [[[10.0, 8.0, 8.0]]]
    assert targets.beyond_episode_end.tolist() == [[[False, False, True]]]
    assert not targets.game_over.any()
    assert targets.is_partial.tolist() == [[True]]


def test_targets_of_the_newest_row_of_an_open_episode():
    rows = make_rows([M] * 4, [3] * 4, [1] * 4, [10] * 4)
    targets = make_targets(rows, [6, 6, 6, 6], [7] * 4, num_unroll_steps=2, num_bootstrap_steps=1, gamma=1.0)
    assert targets.value.tolist() == [[[7.0, 7.0, 7.0]]]
    assert targets.beyond_episode_end.tolist() == [[[False, True, True]]]
    assert targets.is_partial.tolist() == [[True]]


def test_targets_after_a_cut_before_the_second_row():
    # [LAST][LAST][FIRST]: the middle row is an episode of its own, closed by a cut.
    rows = make_rows([L, L, F, M], [2, 0, 0, 1], [0, 1, 1, 1], [20, 0, 0, 10])
    targets = make_targets(rows, range(4), [9, 5, 9, 9], num_unroll_steps=1, num_bootstrap_steps=1, gamma=1.0)
    assert targets.value.tolist() == [[[0.0, 0.0], [5.0, 5.0]]]
    assert targets.game_over.tolist() == [[[True, True], [False, False]]]
    assert targets.beyond_episode_end.tolist() == [[[False, True], [False, True]]]


def brute_force_value(reward, discount, value, start, end, num_steps, gamma):
    # Only the end of a game has no value: a MID row with discount 0 (a lost life) has one.
    total, weight, row = 0.0, 0.0 if start == end and discount[start] == 0 else 1.0, start
    for _ in range(min(num_steps, end - start)):
        row += 1
        total += weight * reward[row]
        weight *= gamma * discount[row]
    return total + weight * value[row]


def test_value_targets_against_the_definition():
    generator = torch.Generator().manual_seed(1)
    reward, value = torch.randn(2, 4, 12, generator=generator)
    is_last = torch.rand(4, 12, generator=generator) < 0.25
    discount = torch.where(is_last & (torch.rand(4, 12, generator=generator) < 0.5), 0.0, 1.0)
    end = episode_end_rows(is_last, torch.arange(12).expand(4, -1))
    for num_steps in (1, 3, 5):
        values = value_targets(reward, discount, value, end, num_steps, 0.9)
        for batch in range(4):
            for row in range(12 - num_steps):
                arguments = (each[batch].tolist() for each in (reward, discount, value))
                expected = brute_force_value(*arguments, row, int(end[batch, row]), num_steps, 0.9)
                assert values[batch, row].item() == pytest.approx(expected, abs=1e-5)
