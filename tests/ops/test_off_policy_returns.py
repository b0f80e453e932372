"""Targets with numbers to redo by hand, and against slow definitions on random blocks."""

import math

import pytest
import torch
from row_blocks import (
    LAST_AT_2,
    MID,
    ONES,
    REWARD,
    TERMINATED_AT_2,
    VALUE,
    brute_force_n_step,
    brute_force_v_trace,
    random_block,
)

from alfish.ops.off_policy_returns import (
    double_q_target,
    importance_weights,
    lambda_return,
    one_step_target,
    soft_value,
    v_trace,
)
from alfish.ops.returns import discounted_return, generalized_advantage_estimate, n_step_return

# pi / mu of the four actions.
RATIO = torch.tensor([[0.5, 2.0, 4.0, 1.0]])
LOG_RATIO = RATIO.log()


def test_lambda_returns_by_hand():
    inside = lambda_return(REWARD, ONES, VALUE, MID, 0.5, 0.5)
    # G[3] = 4 + 10/2; G[t] = reward[t+1] + (value[t+1] + G[t+1]) / 4
    expected = [1 + (4 + 4.1875) / 4, 2 + (2 + 6.75) / 4, 3 + (6 + 9) / 4, 9.0]
    torch.testing.assert_close(inside, torch.tensor([expected]))
    truncated = lambda_return(REWARD, ONES, VALUE, LAST_AT_2, 0.5, 0.5)
    # G[2] = V(LAST) = 2, so G[1] = 2 + (2 + 2) / 4 = 3, G[0] = 1 + (4 + 3) / 4
    torch.testing.assert_close(truncated, torch.tensor([[2.75, 3.0, 2.0, 9.0]]))
    terminated = lambda_return(REWARD, TERMINATED_AT_2, VALUE, LAST_AT_2, 0.5, 0.5)
    torch.testing.assert_close(terminated, torch.tensor([[1 + (4 + 2.0) / 4, 2.0, 2.0, 9.0]]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("return_lambda", [0.0, 0.3, 1.0])
def test_lambda_returns_are_weighted_means_of_n_step_returns(seed, return_lambda):
    block = random_block(seed)
    rows, steps = block[0].shape
    # Equation 12.3: beyond the end the n-step returns stay the same, so the last one takes the remaining weight.
    weights = [(1 - return_lambda) * return_lambda**n for n in range(steps - 1)] + [return_lambda ** (steps - 1)]
    expected = [
        [
            sum(w * brute_force_n_step(*block, 0.9, n + 1, row, start) for n, w in enumerate(weights))
            for start in range(steps - 1)
        ]
        for row in range(rows)
    ]
    found = lambda_return(*block, 0.9, return_lambda)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_lambda_return_at_its_limits_and_beside_the_advantage_estimate():
    block = random_block(11)
    torch.testing.assert_close(lambda_return(*block, 0.9, 0.0), n_step_return(*block, 0.9, 1))
    torch.testing.assert_close(lambda_return(*block, 0.9, 1.0), discounted_return(*block, 0.9))
    advantage = generalized_advantage_estimate(*block, 0.9, 0.7)
    torch.testing.assert_close(lambda_return(*block, 0.9, 0.7), advantage + block[2][:, :-1])


def test_v_trace_by_hand():
    result = v_trace(REWARD, ONES, VALUE, MID, LOG_RATIO, 0.5, max_rho=3.0, max_c=1.0)
    # rho = 1/2, 2, 3, 1; c = 1/2, 1, 1, 1; temporal differences = 1+2-8, 2+1-4, 3+3-2, 4+5-6 = -5, -1, 4, 3
    # v - V: x[3] = 3; x[2] = 12 + 3/2; x[1] = -2 + 13.5/2; x[0] = -5/2 + 4.75/4
    torch.testing.assert_close(result.value_target, torch.tensor([[8 - 2.5 + 1.1875, 4 + 4.75, 2 + 13.5, 6 + 3.0]]))
    # rho (reward + v[t+1] / 2 - V): v[t+1] = 8.75, 15.5, 9, and V of the last row
    expected = [(1 + 4.375 - 8) / 2, 2 * (2 + 7.75 - 4), 3 * (3 + 4.5 - 2), 4 + 5 - 6.0]
    torch.testing.assert_close(result.advantage, torch.tensor([expected]))


def test_v_trace_at_a_truncated_row():
    result = v_trace(REWARD, ONES, VALUE, LAST_AT_2, LOG_RATIO, 0.5, max_rho=3.0, max_c=1.0)
    # Row 2 corrects nothing, so x[1] = -2, x[0] = -5/2 - 2/4; row 1 bootstraps from V(LAST) = 2.
    torch.testing.assert_close(result.value_target, torch.tensor([[8 - 3.0, 4 - 2.0, 2.0, 9.0]]))
    torch.testing.assert_close(result.advantage, torch.tensor([[(1 + 1 - 8) / 2, 2 * (2 + 1 - 4), 0.0, 3.0]]))


def test_v_trace_at_a_terminated_row():
    result = v_trace(REWARD, TERMINATED_AT_2, VALUE, LAST_AT_2, LOG_RATIO, 0.5, max_rho=3.0, max_c=1.0)
    # The temporal difference of row 1 is 2 - 4: x[1] = -4, x[0] = -5/2 - 4/4.
    torch.testing.assert_close(result.value_target, torch.tensor([[8 - 3.5, 0.0, 2.0, 9.0]]))
    torch.testing.assert_close(result.advantage, torch.tensor([[(1 + 0 - 8) / 2, 2 * (2 - 4.0), 0.0, 3.0]]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("max_rho", "max_c"), [(1.0, 1.0), (2.0, 0.7), (math.inf, math.inf)])
def test_v_trace_against_brute_force(seed, max_rho, max_c):
    reward, discount, value, is_last = random_block(seed)
    log_ratio = torch.randn(6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ratio = log_ratio.exp()
    target = torch.tensor(
        [
            [
                brute_force_v_trace(reward, discount, value, is_last, ratio, 0.9, max_rho, max_c, row, start)
                for start in range(13)
            ]
            for row in range(6)
        ],
        dtype=torch.float64,
    )
    # Whatever a LAST row's ratio is, it has no influence.
    garbage = torch.where(is_last[:, :-1], torch.tensor([math.nan, math.inf] * 6, dtype=torch.float64), log_ratio)
    result = v_trace(reward, discount, value, is_last, garbage, 0.9, max_rho, max_c)
    torch.testing.assert_close(result.value_target, target[:, :-1])
    advantage = ratio.clamp_max(max_rho) * (reward[:, 1:] + 0.9 * discount[:, 1:] * target[:, 1:] - value[:, :-1])
    torch.testing.assert_close(result.advantage, torch.where(is_last[:, :-1], 0.0, advantage))


@pytest.mark.parametrize("v_trace_lambda", [0.0, 0.6, 1.0])
def test_v_trace_of_fresh_data_is_the_lambda_return(v_trace_lambda):
    block = random_block(5)
    result = v_trace(*block, torch.zeros(6, 12, dtype=torch.float64), 0.9, v_trace_lambda=v_trace_lambda)
    torch.testing.assert_close(result.value_target, lambda_return(*block, 0.9, v_trace_lambda))
    torch.testing.assert_close(result.advantage, generalized_advantage_estimate(*block, 0.9, v_trace_lambda))


def test_v_trace_finds_the_value_of_the_policy_from_the_actions_of_another():
    # One state, two actions of rewards 0 and 1, then the end. mu takes action 1 with 1/2, pi with 3/4: V_pi = 3/4.
    mu, pi = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    for max_rho, expected in ((math.inf, 0.75), (1.0, 0.5 / 0.75)):
        # With a limit the fixed point is the value of min(max_rho mu, pi), normalised: (1/4, 1/2) here.
        value = expected
        action = torch.tensor([0, 1])
        result = v_trace(
            reward=torch.stack((torch.zeros(2), action.float()), dim=1),
            discount=torch.tensor([[1.0, 0.0]] * 2),
            value=torch.tensor([[value, 100.0]] * 2),
            is_last=torch.tensor([[False, True]] * 2),
            log_ratio=(pi / mu).log()[action].unsqueeze(1),
            gamma=1.0,
            max_rho=max_rho,
        )
        assert (mu * result.value_target[:, 0]).sum().item() == pytest.approx(expected)


def test_nothing_behind_a_last_row_reaches_the_rows_before_it():
    other_reward, other_value, other_ratio = REWARD.clone(), VALUE.clone(), LOG_RATIO.clone()
    other_reward[0, 3:] = 1000.0
    other_value[0, 3:] = -1000.0
    other_ratio[0, 2:] = 3.0
    before = v_trace(REWARD, ONES, VALUE, LAST_AT_2, LOG_RATIO, 0.9)
    after = v_trace(other_reward, ONES, other_value, LAST_AT_2, other_ratio, 0.9)
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, :3], new[:, :3])
        assert not torch.equal(old[:, 3:], new[:, 3:])
    old = lambda_return(REWARD, ONES, VALUE, LAST_AT_2, 0.9, 0.9)
    new = lambda_return(other_reward, ONES, other_value, LAST_AT_2, 0.9, 0.9)
    assert torch.equal(old[:, :3], new[:, :3])


def test_two_last_rows_in_a_row():
    # A checkpoint may close an episode at its first row, and a frozen environment repeats its last one.
    is_last = torch.tensor([[False, True, True, False, False]])
    result = v_trace(REWARD, ONES, VALUE, is_last, torch.zeros(1, 4), 0.5)
    torch.testing.assert_close(result.value_target, torch.tensor([[3.0, 4.0, 2.0, 9.0]]))
    torch.testing.assert_close(result.advantage, torch.tensor([[-5.0, 0.0, 0.0, 3.0]]))
    assert lambda_return(REWARD, ONES, VALUE, is_last, 0.5, 0.5).tolist() == [[3.0, 4.0, 2.0, 9.0]]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"log_ratio has the shape \(1, 5\); expected \(1, 4\)"):
        v_trace(REWARD, ONES, VALUE, MID, torch.zeros(1, 5), 0.9)
    with pytest.raises(ValueError, match=r"\[B, T\+1\]"):
        v_trace(REWARD[:, 1:], ONES, VALUE, MID, LOG_RATIO, 0.9)
    with pytest.raises(ValueError, match="T >= 1"):
        lambda_return(REWARD[:, :1], ONES[:, :1], VALUE[:, :1], MID[:, :1], 0.9, 0.9)


def test_importance_weights_are_clipped_and_without_gradient():
    log_ratio = torch.tensor([math.log(0.5), 0.0, math.log(3.0), 1.0e30, -1.0e30], requires_grad=True)
    weights = importance_weights(log_ratio, 2.0)
    assert weights.tolist() == pytest.approx([0.5, 1.0, 2.0, 2.0, 0.0])
    assert not weights.requires_grad
    assert importance_weights(torch.tensor([math.log(7.0)]), math.inf).item() == pytest.approx(7.0)


def test_one_step_targets_by_hand():
    reward, discount = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.5])
    # Bootstrapped, or truncated; terminated; an environment with a discount of its own.
    target = one_step_target(reward, discount, torch.tensor([10.0, 1e30, 10.0]), 0.9)
    assert target.tolist() == pytest.approx([10.0, 1.0, 5.5])


def test_one_step_target_is_the_n_step_return_of_one_step():
    reward, discount, value, is_last = random_block(3)
    found = one_step_target(reward[:, 1:], discount[:, 1:], value[:, 1:], 0.9)
    expected = n_step_return(reward, discount, value, is_last, 0.9, 1)
    ends = is_last[:, :-1]
    torch.testing.assert_close(found[~ends], expected[~ends])


def test_double_q_targets_by_hand():
    online = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 1.0]])
    target = torch.tensor([[10.0, 20.0, 30.0], [-1.0, -2.0, -3.0]])
    assert double_q_target(online, target).tolist() == [20.0, -1.0]
    assert double_q_target(target, target).tolist() == [30.0, -1.0]  # one network: the maximum
    legal = torch.tensor([[True, False, True], [False, True, False]])
    assert double_q_target(online, target, legal).tolist() == [30.0, -2.0]
    assert double_q_target(online, target, torch.zeros(2, 3, dtype=torch.bool)).tolist() == [10.0, -1.0]


def test_double_q_targets_with_leading_axes_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    online, target = torch.randn(2, 4, 5, 3, generator=generator)
    legal = torch.rand(4, 5, 3, generator=generator) < 0.6
    legal[..., 0] = True
    found = double_q_target(online, target, legal)
    for b in range(4):
        for t in range(5):
            allowed = [a for a in range(3) if legal[b, t, a]]
            best = max(allowed, key=lambda a: float(online[b, t, a]))
            assert found[b, t] == target[b, t, best]


def test_a_soft_value_by_hand():
    assert soft_value(torch.tensor([3.0]), torch.tensor([-2.0]), 0.5).tolist() == [4.0]
