"""MuZero targets against tables worked out by hand: pure functions of one block."""

import pytest
import torch
from muzero_histories import History, make_blocks

from alfish.algorithms.mcts_algorithm import SearchInfo
from alfish.algorithms.muzero_targets import (
    block_targets,
    make_block,
    outcome_values,
    return_values,
    search_values,
    value_behind,
)
from alfish.data_structures import StepType, Tail, TimeStep

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST


def make_rows(step_types, rewards, discounts, actions=None):
    """One segment's rows; the action that led to row i is 10 i, and its observation is i."""
    length = len(step_types)
    rows = torch.arange(length)
    return TimeStep(
        step_type=torch.tensor([step_types], dtype=torch.uint8),
        reward=torch.tensor([rewards], dtype=torch.float32),
        discount=torch.tensor([discounts], dtype=torch.float32),
        observation={"row": rows.float().view(1, length, 1)},
        prev_action=10 * rows.unsqueeze(0) if actions is None else torch.tensor([actions]),
        env_id=torch.zeros(1, length, dtype=torch.int32),
    )


def block_of(rows, num_starts, num_unroll_steps, position=None):
    position = range(7, 7 + rows.reward.shape[1]) if position is None else position
    return make_block(rows, torch.tensor([list(position)]), num_starts, num_unroll_steps)


def returns(block, value, horizon, gamma, predicts_reward=True, max_horizon=None):
    value = torch.tensor([value], dtype=torch.float32)
    max_horizon = horizon if max_horizon is None else max_horizon
    values = return_values(block, value, horizon, max_horizon, gamma)
    return values if predicts_reward else outcome_values(block, values)


def test_the_end_of_a_game():
    block = block_of(make_rows([F, M, L, F, M], [0, 1, 2, 0, 5], [1, 1, 0, 1, 1]), num_starts=2, num_unroll_steps=2)
    # gamma = 1/2, V = 8: z(0) = 1 + 2/2 + 0 · 8 = 2, z(1) = 2, z(2) = 0, the game is over; z(3) = 5 + 8/2.
    values = returns(block, [8] * 5, 2, 0.5)
    assert values.tolist() == [[2.0, 2.0, 0.0, 9.0]]
    # With one step: z(0) = 1 + 8/2.
    assert returns(block, [8] * 5, 1, 0.5).tolist() == [[5.0, 2.0, 0.0, 9.0]]
    # From row 0: rows 0 1 2; from row 1: rows 1 2 and, beyond the end, 2 again with reward 0.
    targets = block_targets(block, values, torch.eye(5).unsqueeze(0), with_observation=True)
    assert targets.action.tolist() == [[[10, 20], [20, 20]]]
    assert targets.reward.tolist() == [[[0, 1, 2], [1, 2, 0]]]
    assert targets.value.tolist() == [[[2, 2, 0], [2, 0, 0]]]
    assert targets.policy.argmax(-1).tolist() == [[[0, 1, 2], [1, 2, 2]]]
    assert targets.observation["row"].tolist() == [[[[1], [2]], [[2], [2]]]]
    assert targets.beyond_episode_end.tolist() == [[[False] * 3, [False, False, True]]]
    assert targets.game_over.tolist() == [[[False, False, True], [False, True, True]]]
    assert targets.is_partial.tolist() == [[False, False]]
    assert targets.candidates == ()


def test_a_time_limit():
    # The same rows with discount 1 at row 2: z(0) = 1 + 2/2 + 8/4, z(1) = 2 + 8/2, z(2) = V.
    block = block_of(make_rows([F, M, L, F, M], [0, 1, 2, 0, 5], [1] * 5), num_starts=2, num_unroll_steps=2)
    values = returns(block, [8] * 5, 2, 0.5)
    assert values.tolist() == [[4.0, 6.0, 8.0, 9.0]]
    targets = block_targets(block, values)
    # z(2) is also what stands, masked by is_partial, beyond the limit.
    assert targets.value.tolist() == [[[4, 6, 8], [6, 8, 8]]]
    assert targets.reward.tolist() == [[[0, 1, 2], [1, 2, 0]]]
    assert targets.beyond_episode_end.tolist() == [[[False] * 3, [False, False, True]]]
    assert not targets.game_over.any()
    assert targets.is_partial.tolist() == [[True, True]]
    assert (targets.policy, targets.observation) == ((), ())


def test_inside_an_episode():
    block = block_of(make_rows([F, M, M, M, M], [0, 1, 2, 3, 4], [1] * 5), num_starts=2, num_unroll_steps=2)
    # z(c) = r[c+1] + V[c+1]/2: z(0..3) = 1+3, 2+3.5, 3+4, 4+4.5.
    values = returns(block, [5, 6, 7, 8, 9], 1, 0.5)
    targets = block_targets(block, values, torch.eye(5).unsqueeze(0), torch.arange(10).view(1, 5, 2))
    assert targets.action.tolist() == [[[10, 20], [20, 30]]]
    assert targets.reward.tolist() == [[[0, 1, 2], [1, 2, 3]]]
    assert targets.value.tolist() == [[[4.0, 5.5, 7.0], [5.5, 7.0, 8.5]]]
    assert targets.policy.argmax(-1).tolist() == [[[0, 1, 2], [1, 2, 3]]]
    assert targets.candidates.tolist() == [[[[0, 1], [2, 3], [4, 5]], [[2, 3], [4, 5], [6, 7]]]]
    assert not targets.beyond_episode_end.any()
    assert not targets.game_over.any()
    assert targets.is_partial.tolist() == [[True, True]]


def test_the_newest_row_of_an_open_episode():
    block = block_of(make_rows([M] * 4, [3] * 4, [1] * 4, [10] * 4), 1, 2, position=[6, 6, 6, 6])
    targets = block_targets(block, returns(block, [7] * 4, 1, 1.0))
    assert targets.value.tolist() == [[[7.0, 7.0, 7.0]]]
    assert targets.reward.tolist() == [[[3.0, 0.0, 0.0]]]
    assert targets.action.tolist() == [[[10, 10]]]
    assert targets.beyond_episode_end.tolist() == [[[False, True, True]]]
    assert not targets.game_over.any()
    assert targets.is_partial.tolist() == [[True]]


def test_the_last_rows_of_an_open_episode():
    # Rows 5 6 7, the newest, which the buffer repeats. n = 2, gamma = 1/2, V = 8:
    # z(0) = 2 + 3/2 + 8/4, z(1) = 3 + 8/2, z(2) = V.
    block = block_of(make_rows([M] * 5, [1, 2, 3, 3, 3], [1] * 5), 1, 2, position=[5, 6, 7, 7, 7])
    targets = block_targets(block, returns(block, [8] * 5, 2, 0.5))
    assert targets.value.tolist() == [[[5.5, 7.0, 8.0]]]
    assert not targets.beyond_episode_end.any()


def test_three_starts_in_two_episodes():
    # A game ends at row 1; the next begins at row 2 and is cut at row 4. n = 2, gamma = 1/2, V = 16:
    # z(0) = 1, z(1) = 0, z(2) = 2 + 4/2 + 16/4 = 8, z(3) = 4 + 16/2 = 12, z(4) = 16.
    rows = make_rows([M, L, F, M, L, L, L], [9, 1, 0, 2, 4, 4, 4], [1, 0, 1, 1, 1, 1, 1])
    block = block_of(rows, 3, 2, position=[0, 1, 2, 3, 4, 4, 4])
    targets = block_targets(block, returns(block, [16] * 7, 2, 0.5), torch.eye(7).unsqueeze(0))
    assert targets.value.tolist() == [[[1, 0, 0], [0, 0, 0], [8, 12, 16]]]
    assert targets.reward.tolist() == [[[9, 1, 0], [1, 0, 0], [0, 2, 4]]]
    assert targets.action.tolist() == [[[10, 10], [10, 10], [30, 40]]]
    assert targets.policy.argmax(-1).tolist() == [[[0, 1, 1], [1, 1, 1], [2, 3, 4]]]
    assert targets.beyond_episode_end.int().tolist() == [[[0, 0, 1], [0, 1, 1], [0, 0, 0]]]
    assert targets.game_over.int().tolist() == [[[0, 1, 1], [1, 1, 1], [0, 0, 0]]]
    assert targets.is_partial.tolist() == [[False, False, True]]


def test_a_cut_before_the_second_row():
    # [LAST][LAST][FIRST]: the middle row is an episode of its own, closed by a cut.
    block = block_of(make_rows([L, L, F, M], [2, 0, 0, 1], [0, 1, 1, 1], [20, 0, 0, 10]), 2, 1)
    targets = block_targets(block, returns(block, [9, 5, 9, 9], 1, 1.0))
    assert targets.value.tolist() == [[[0.0, 0.0], [5.0, 5.0]]]
    assert targets.game_over.tolist() == [[[True, True], [False, False]]]
    assert targets.beyond_episode_end.tolist() == [[[False, True], [False, True]]]


def test_a_lost_life():
    # d[1] = 0 inside the episode: nothing behind row 1 counts for row 0, and row 1 itself is worth nothing, because its
    # own d is in every product; but no game is over, and its policy is learned. n = 2, gamma = 1/2, V = 8.
    # z(0) = 1, z(1) = 0, z(2) = 4 + 5/2 + 8/4.
    block = block_of(make_rows([M] * 5, [0, 1, 2, 4, 5], [1, 0, 1, 1, 1]), 1, 2)
    targets = block_targets(block, returns(block, [8] * 5, 2, 0.5))
    assert targets.value.tolist() == [[[1.0, 0.0, 8.5]]]
    assert not targets.game_over.any()
    assert not targets.beyond_episode_end.any()
    assert targets.reward.tolist() == [[[0.0, 1.0, 2.0]]]


def test_a_horizon_for_each_row():
    block = block_of(make_rows([F, M, M, M, M, M], [0, 1, 2, 4, 8, 16], [1] * 6), 1, 3)
    # gamma = 1/2, V = 32. n = 0: V. n = 1: 2 + 16. n = 2: 4 + 8/2 + 32/4. n = 1: 8 + 16.
    values = returns(block, [32] * 6, torch.tensor([[0, 1, 2, 1]]), 0.5, max_horizon=2)
    assert values.tolist() == [[32.0, 18.0, 16.0, 24.0]]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        # The block's last row is the newest, or a LAST one: V = 4. z(2) = 8 + 4/2, z(1) = 4 + 10/2, z(0) = 2 + 9/2.
        ((0.0, 1.0, 4.0), [6.5, 9.0, 10.0]),
        # Two rows more, with rewards 4 and 8, then a cut with value 16: 4 + 8/2 + 16/4 = 12 at row 3.
        ((8.0, 0.25, 16.0), [2 + 2 + 2 + 1.5, 4 + 4 + 3, 8 + 6]),
        # The same, and the game ends there: 8 at row 3.
        ((8.0, 0.0, 16.0), [2 + 2 + 2 + 1, 4 + 4 + 2, 8 + 4]),
    ],
)
def test_monte_carlo_returns_go_on_behind_the_block(tail, expected):
    block = block_of(make_rows([M] * 4, [1, 2, 4, 8], [1] * 4), 1, 2)
    reward, discount, value = (torch.tensor([number]) for number in tail)
    behind = value_behind(
        torch.tensor([[99.0, 99.0, 99.0, value.item()]]), Tail(reward, discount, SearchInfo((), value))
    )
    values = returns(block, behind[0].tolist(), 3, 0.5)
    assert values.tolist() == [expected]


def test_monte_carlo_returns_of_episodes_that_end_in_the_block():
    # Gamma = 1/2. The game ends at row 1: z(0) = 2. The next is cut at row 3, of value 8: z(2) = 8 + 8/2, z(3) = 8.
    # The tail is that of the block's last row and counts for none of them.
    block = block_of(make_rows([M, L, F, L, L], [1, 2, 0, 8, 8], [1, 0, 1, 1, 1]), 3, 1, position=[0, 1, 2, 3, 3])
    number = torch.tensor([1000.0])
    behind = value_behind(torch.full((1, 5), 8.0), Tail(number, number, SearchInfo((), number)))
    assert returns(block, behind[0].tolist(), 4, 0.5).tolist() == [[2.0, 0.0, 12.0, 8.0]]


def test_search_values():
    block = block_of(make_rows([F, M, L, F, M], [0, 1, 2, 0, 5], [1, 0, 0, 1, 1]), num_starts=2, num_unroll_steps=2)
    value = torch.tensor([[3.0, 4.0, 5.0, 6.0, 7.0]])
    # Row 1 lost a life, at row 2 the game is over.
    assert search_values(block, value).tolist() == [[3.0, 0.0, 0.0, 6.0]]
    assert outcome_values(block, search_values(block, value)).tolist() == [[3.0, 0.0, 2.0, 6.0]]


def test_without_rewards_the_end_is_worth_the_last_one():
    # Only the last step of a game pays, 1 here. Gamma = 1/2: z(0) = 1/2, z(1) = 1, and z(2) = 1, beyond the end, too.
    block = block_of(make_rows([F, M, L, L, L], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]), 2, 2, position=[0, 1, 2, 2, 2])
    values = returns(block, [8] * 5, 2, 0.5, predicts_reward=False)
    targets = block_targets(block, values)
    assert targets.value.tolist() == [[[0.5, 1, 1], [1, 1, 1]]]
    assert targets.reward.tolist() == [[[0, 0, 1], [0, 1, 0]]]
    # A time limit is no outcome: its LAST row is worth what it was.
    block = block_of(make_rows([F, M, L, L, L], [0, 0, 1, 1, 1], [1] * 5), 2, 2, position=[0, 1, 2, 2, 2])
    assert returns(block, [8] * 5, 1, 0.5, predicts_reward=False).tolist() == [[4.0, 5.0, 8.0, 8.0]]


def test_a_ring_that_has_wrapped():
    # Stored are the positions 1005 … 1009; the oldest is inside an episode that ends at 1006, the newest is open.
    # n = 1, gamma = 1/2, V = 1 … 5: z = 2 + 0, 0, 4 + 4/2, 5 + 5/2, 5.
    history = History([M, L, F, M, M], [1, 2, 0, 4, 5], [1, 0, 1, 1, 1], [0, 1, 0, 2, 1], [1, 2, 3, 4, 5], oldest=1005)
    blocks = make_blocks([history], num_starts=1, future=3, gamma=0.5)
    block = make_block(blocks.rows, blocks.info.position, 1, 2)
    assert blocks.info.position[:, 0].tolist() == [1005, 1006, 1007, 1008, 1009]
    values = return_values(block, blocks.search.value, 1, 1, 0.5)
    targets = block_targets(block, values, blocks.search.policy)
    assert targets.value[:, 0].tolist() == [[2, 0, 0], [0, 0, 0], [6, 7.5, 5], [7.5, 5, 5], [5, 5, 5]]
    assert targets.reward[:, 0].tolist() == [[1, 2, 0], [2, 0, 0], [0, 4, 5], [4, 5, 0], [5, 0, 0]]
    assert targets.action[:, 0].tolist() == [[1, 1], [1, 1], [2, 1], [1, 1], [1, 1]]
    assert targets.beyond_episode_end[:, 0].int().tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert targets.game_over[:, 0].int().tolist() == [[0, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert targets.is_partial[:, 0].tolist() == [False, False, True, True, True]
