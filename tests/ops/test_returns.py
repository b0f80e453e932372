"""Returns over the rows of the house, with numbers to redo by hand and a slow oracle."""

import pytest
import torch
from row_blocks import LAST_AT_2, MID, ONES, REWARD, TERMINATED_AT_2, VALUE, brute_force_n_step, random_block

from alfish.ops.returns import bootstrapped_return, discounted_return, generalized_advantage_estimate, n_step_return


def test_advantages_inside_an_episode():
    advantage = generalized_advantage_estimate(REWARD, ONES, VALUE, MID, 0.5, 0.5)
    # delta = 1 + 2 - 8, 2 + 1 - 4, 3 + 3 - 2, 4 + 5 - 6 = -5, -1, 4, 3; A[t] = delta[t] + A[t+1] / 4
    expected = [-5.0 + (-1.0 + 4.75 / 4) / 4, -1.0 + 4.75 / 4, 4.0 + 3.0 / 4, 3.0]
    torch.testing.assert_close(advantage, torch.tensor([expected]))


def test_advantages_stop_at_a_truncated_row_and_bootstrap_from_it():
    advantage = generalized_advantage_estimate(REWARD, ONES, VALUE, LAST_AT_2, 0.5, 0.5)
    # delta[1] = 2 + 0.5 * V(LAST) - 4 = -1, and nothing comes from row 2, where A = 0
    torch.testing.assert_close(advantage, torch.tensor([[-5.0 - 1.0 / 4, -1.0, 0.0, 3.0]]))


def test_advantages_at_a_terminated_row_ignore_its_value():
    advantage = generalized_advantage_estimate(REWARD, TERMINATED_AT_2, VALUE, LAST_AT_2, 0.5, 0.5)
    # delta[1] = 2 - 4 = -2
    torch.testing.assert_close(advantage, torch.tensor([[-5.0 - 2.0 / 4, -2.0, 0.0, 3.0]]))


def test_the_last_row_of_the_block_may_be_terminated_or_truncated():
    last_at_4 = torch.tensor([[False, False, False, False, True]])
    truncated = generalized_advantage_estimate(REWARD, ONES, VALUE, last_at_4, 0.5, 0.5)
    assert truncated[0, 3] == 4.0 + 0.5 * 10.0 - 6.0
    terminated = generalized_advantage_estimate(
        REWARD, torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0]]), VALUE, last_at_4, 0.5, 0.5
    )
    assert terminated[0, 3] == 4.0 - 6.0


def test_nothing_behind_a_last_row_reaches_the_rows_before_it():
    other_reward, other_value = REWARD.clone(), VALUE.clone()
    other_reward[0, 3:] = 1000.0
    other_value[0, 3:] = -1000.0
    for function, arguments in ((generalized_advantage_estimate, (0.9, 0.9)), (discounted_return, (0.9,))):
        before = function(REWARD, ONES, VALUE, LAST_AT_2, *arguments)
        after = function(other_reward, ONES, other_value, LAST_AT_2, *arguments)
        torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0.0, atol=0.0)
        assert not torch.equal(after[:, 3:], before[:, 3:])


def test_two_last_rows_in_a_row():
    # A checkpoint may close an episode at its first row.
    is_last = torch.tensor([[False, True, True, False, False]])
    advantage = generalized_advantage_estimate(REWARD, ONES, VALUE, is_last, 0.5, 0.5)
    torch.testing.assert_close(advantage, torch.tensor([[-5.0, 0.0, 0.0, 3.0]]))


def test_discounted_returns_by_hand():
    inside = discounted_return(REWARD, ONES, VALUE, MID, 0.5)
    torch.testing.assert_close(
        inside, torch.tensor([[1 + 1 + 0.75 + 0.5 + 0.625, 2 + 1.5 + 1 + 1.25, 3 + 2 + 2.5, 9.0]])
    )
    truncated = discounted_return(REWARD, ONES, VALUE, LAST_AT_2, 0.5)
    torch.testing.assert_close(truncated, torch.tensor([[1 + 1.5, 2 + 1.0, 2.0, 9.0]]))
    terminated = discounted_return(REWARD, TERMINATED_AT_2, VALUE, LAST_AT_2, 0.5)
    torch.testing.assert_close(terminated, torch.tensor([[1 + 1.0, 2.0, 2.0, 9.0]]))


def test_n_step_returns_by_hand():
    one = n_step_return(REWARD, ONES, VALUE, MID, 0.5, 1)
    torch.testing.assert_close(one, torch.tensor([[1 + 2.0, 2 + 1.0, 3 + 3.0, 4 + 5.0]]))
    two = n_step_return(REWARD, ONES, VALUE, MID, 0.5, 2)
    torch.testing.assert_close(two, torch.tensor([[1 + 1 + 0.5, 2 + 1.5 + 1.5, 3 + 2 + 2.5, 4 + 5.0]]))
    truncated = n_step_return(REWARD, ONES, VALUE, LAST_AT_2, 0.5, 3)
    torch.testing.assert_close(truncated, torch.tensor([[1 + 1 + 0.5, 2 + 1.0, 2.0, 4 + 5.0]]))
    terminated = n_step_return(REWARD, TERMINATED_AT_2, VALUE, LAST_AT_2, 0.5, 3)
    torch.testing.assert_close(terminated, torch.tensor([[1 + 1.0, 2.0, 2.0, 4 + 5.0]]))


def test_returns_over_as_many_steps_as_each_row_asks_for():
    # gamma = 1/2 and discounts of 1/2, so that every step on weighs a quarter, its reward twice that.
    reward = torch.tensor([[99.0, 1.0, 2.0, 4.0, 8.0]])
    discount = torch.full((1, 5), 0.5)
    value = torch.tensor([[16.0, 32.0, 64.0, 128.0, 256.0]])
    steps = torch.tensor([[0, 3, 1]])
    # V[0]; 2 + 4/4 + 8/16 + 256/64; 4 + 128/4.
    for max_steps in (3, 10):  # windows may reach over the end of the block
        found = bootstrapped_return(reward, discount, value, steps, 0.5, max_steps)
        assert found.tolist() == [[16.0, 7.5, 36.0]]


@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(seed):
    block = random_block(seed)
    rows, steps = block[0].shape
    gamma, gae_lambda = 0.9, 0.8
    walk = [
        [[brute_force_n_step(*block, gamma, n, row, t) for n in range(steps + 1)] for t in range(steps - 1)]
        for row in range(rows)
    ]
    walked = torch.tensor(walk, dtype=torch.float64)  # [B, T, n]
    torch.testing.assert_close(discounted_return(*block, gamma), walked[:, :, -1])
    for num_steps in (1, 2, 5, 100):
        expected = walked[:, :, min(num_steps, steps)]
        torch.testing.assert_close(n_step_return(*block, gamma, num_steps), expected)
    # Equation 16 of the paper as it is first defined: the exponentially weighted mean of the n-step advantages. Behind
    # the end of an episode or of the block the n-step returns stay the same, so the tail takes the remaining weight.
    weights = (1 - gae_lambda) * gae_lambda ** torch.arange(steps, dtype=torch.float64)
    weights[-1] = gae_lambda ** (steps - 1)
    lambda_return = (walked[:, :, 1:] * weights).sum(-1)
    advantage = generalized_advantage_estimate(*block, gamma, gae_lambda)
    torch.testing.assert_close(advantage, lambda_return - block[2][:, :-1])


def test_lambda_0_is_one_step_and_lambda_1_is_the_return():
    block = random_block(7)
    value = block[2][:, :-1]
    torch.testing.assert_close(generalized_advantage_estimate(*block, 0.9, 0.0) + value, n_step_return(*block, 0.9, 1))
    torch.testing.assert_close(generalized_advantage_estimate(*block, 0.9, 1.0) + value, discounted_return(*block, 0.9))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[B, T\+1\]"):
        generalized_advantage_estimate(REWARD[:, 1:], ONES, VALUE, MID, 0.9, 0.9)
    with pytest.raises(ValueError, match="T >= 1"):
        discounted_return(REWARD[:, :1], ONES[:, :1], VALUE[:, :1], MID[:, :1], 0.9)
    with pytest.raises(ValueError, match="num_steps is 0"):
        n_step_return(REWARD, ONES, VALUE, MID, 0.9, 0)
