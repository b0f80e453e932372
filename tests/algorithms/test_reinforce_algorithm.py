import functools
import math

import pytest
import torch
from policy_gradient_parts import (
    BOX,
    DISCRETE,
    FIRST,
    LAST,
    MID,
    OBSERVATION,
    FirstElementCritic,
    UniformPolicy,
    collect,
    loss_of,
    random_rows,
    rows_by_hand,
)

from alfish import specs
from alfish.algorithms.policy_gradient import PolicyTargets
from alfish.algorithms.reinforce_algorithm import ReinforceAlgorithm
from alfish.algorithms.stochastic_policy import PolicyInfo
from alfish.data_structures import BatchInfo, time_step_spec
from alfish.networks.actor import ActorNetwork

ONES = [1.0] * 5
# Row types, discounts, returns with the baseline, returns without one. gamma is 0.5, the rewards are 0, 1, 2, 3, 4, and
# the baseline now says 8, 4, 2, 6, 10.
WINDOWS = {
    # 4 + 10 / 2, 3 + 9 / 2, ...: the baseline of the row behind the window stands for the rest
    "inside": ([FIRST, MID, MID, MID, MID], ONES, [3.875, 5.75, 7.5, 9.0], [3.25, 4.5, 5.0, 4.0]),
    # the baseline of the LAST row, 2, stands for the lost future; nothing comes across from the next episode
    "truncated": ([FIRST, MID, LAST, FIRST, MID], ONES, [2.5, 3.0, 2.0, 9.0], [2.0, 2.0, 0.0, 4.0]),
    "terminated": (
        [FIRST, MID, LAST, FIRST, MID],
        [1.0, 1.0, 0.0, 1.0, 1.0],
        [2.0, 2.0, 2.0, 9.0],
        [2.0, 2.0, 0.0, 4.0],
    ),
    "terminated behind the window": (
        [MID, MID, MID, MID, LAST],
        [1.0, 1.0, 1.0, 1.0, 0.0],
        [3.25, 4.5, 5.0, 4.0],
        [3.25, 4.5, 5.0, 4.0],
    ),
    "frozen behind the end": (
        [FIRST, MID, LAST, LAST, LAST],
        [1.0, 1.0, 0.0, 0.0, 0.0],
        [2.0, 2.0, 2.0, 6.0],
        [2.0, 2.0, 0.0, 0.0],
    ),
}


def preprocess(algorithm, step_type, discount):
    rows = rows_by_hand(step_type, [0.0, 1.0, 2.0, 3.0, 4.0], discount, [8.0, 4.0, 2.0, 6.0, 10.0])
    # What was known while collecting has no influence on the targets.
    info = PolicyInfo(torch.tensor([[-1.0, -2.0, -3.0, -4.0]]), torch.full((1, 4), 77.0))
    if not algorithm.policy.has_value:
        info = info._replace(value=())
    return algorithm.preprocess_experience(rows, info, BatchInfo(torch.tensor([[0, 1, 2, 0]]), torch.arange(5)[None]))


@pytest.mark.parametrize("name", WINDOWS)
def test_returns_above_the_baseline_by_hand(name):
    step_type, discount, expected, _ = WINDOWS[name]
    algorithm = ReinforceAlgorithm(OBSERVATION, DISCRETE, FirstElementCritic, discount=0.5)
    inputs, targets = preprocess(algorithm, step_type, discount)
    torch.testing.assert_close(targets.value_target, torch.tensor([expected]))
    assert targets.value.tolist() == [[8.0, 4.0, 2.0, 6.0]]
    torch.testing.assert_close(targets.advantage, torch.tensor([expected]) - targets.value)
    assert targets.log_prob.tolist() == [[-1.0, -2.0, -3.0, -4.0]]
    assert targets.sample.tolist() == [[0, 1, 2, 0]]
    assert inputs.step_type.tolist() == [step_type[:4]]
    assert inputs.observation.shape == (1, 4, 3)


@pytest.mark.parametrize("name", WINDOWS)
def test_returns_without_a_baseline_by_hand(name):
    step_type, discount, _, expected = WINDOWS[name]
    algorithm = ReinforceAlgorithm(OBSERVATION, DISCRETE, UniformPolicy, discount=0.5)
    _, targets = preprocess(algorithm, step_type, discount)
    torch.testing.assert_close(targets.advantage, torch.tensor([expected]))
    assert targets.value == targets.value_target == ()


def test_without_a_baseline_the_policy_alone_is_trained():
    algorithm = ReinforceAlgorithm(OBSERVATION, DISCRETE, UniformPolicy, discount=0.5)
    rows = specs.zeros(time_step_spec(OBSERVATION, DISCRETE), (3,))
    step = algorithm.rollout_step(rows, ())
    assert step.info.value == ()
    log_prob = torch.full((3,), -math.log(3.0))
    targets = PolicyTargets(torch.tensor([0, 1, 2]), log_prob, torch.tensor([1.0, 0.0, -1.0]))
    result = algorithm.calc_loss(algorithm.train_step(rows, (), targets).info)
    result.loss.sum().backward()
    # d(-A log p) = -A (onehot - p): -(1 - 1/3) + (0 - 1/3), ...
    torch.testing.assert_close(algorithm.policy.network.logits.grad, torch.tensor([-1.0, 0.0, 1.0]))
    assert set(result.extra) == {"policy_loss", "entropy", "approximate_kl"}


@pytest.mark.parametrize("spec", [DISCRETE, BOX])
def test_the_network_of_an_actor_gives_no_baseline(spec):
    algorithm = ReinforceAlgorithm(OBSERVATION, spec, ActorNetwork, discount=0.5)
    assert not algorithm.policy.has_value
    rows = random_rows(algorithm)
    inputs, targets = algorithm.preprocess_experience(rows, *collect(algorithm, rows))
    result = loss_of(algorithm, inputs, targets)
    assert result.extra["approximate_kl"].item() == pytest.approx(0.0, abs=1e-6)
    torch.where(inputs.is_last(), 0.0, result.loss).mean().backward()
    assert all(each.grad.any() for each in algorithm.parameters())


@pytest.mark.parametrize(("limit", "weight"), [(1.0, 1.0), (1.5, 1.5), (100.0, 2.0)])
def test_actions_of_an_older_policy_count_by_a_clipped_importance_weight(limit, weight):
    algorithm = ReinforceAlgorithm(
        OBSERVATION, DISCRETE, FirstElementCritic, discount=0.5, max_importance_weight=limit, value_loss_weight=0.0
    )
    rows = specs.zeros(time_step_spec(OBSERVATION, DISCRETE), (2,))
    zeros = torch.zeros(2)
    # pi is 1/3; mu was 1/6 and 4/3 (no probability, but what counts is the ratio).
    log_prob = torch.tensor([-math.log(6.0), math.log(4.0 / 3.0)])
    targets = PolicyTargets(torch.tensor([0, 0]), log_prob, torch.tensor([3.0, 8.0]), zeros, zeros)
    loss = algorithm.calc_loss(algorithm.train_step(rows, (), targets).info).loss
    torch.testing.assert_close(loss, math.log(3.0) * torch.tensor([3.0 * weight, 8.0 * 0.25]))
    loss[0].backward()
    # The weight is a constant: the gradient is its multiple of that of -A log p.
    expected = -3.0 * weight * torch.tensor([2.0, -1.0, -1.0]) / 3.0
    torch.testing.assert_close(algorithm.policy.network.logits.grad, expected)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.inf, math.nan, "1"])
def test_limits_that_cannot_be_used(limit):
    make = functools.partial(ReinforceAlgorithm, OBSERVATION, DISCRETE, discount=0.5)
    with pytest.raises(ValueError, match=f"max_importance_weight is {limit!r}; expected a finite number above 0"):
        make(max_importance_weight=limit)
