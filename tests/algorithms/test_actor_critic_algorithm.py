import functools
import math

import pytest
import torch
from policy_gradient_parts import (
    DISCRETE,
    FIRST,
    LAST,
    MID,
    OBSERVATION,
    FirstElementCritic,
    collect,
    loss_of,
    random_rows,
    rows_by_hand,
)

from alfish.algorithms.actor_critic_algorithm import ActorCriticAlgorithm
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.algorithms.stochastic_policy import PolicyInfo
from alfish.data_structures import BatchInfo

make = functools.partial(ActorCriticAlgorithm, OBSERVATION, DISCRETE, FirstElementCritic, discount=0.5)


def preprocess(algorithm, rows, log_prob):
    """The targets of rows `[1, T+1]` whose actions 0 had the probabilities exp(log_prob)."""
    length = len(log_prob)
    info = PolicyInfo(torch.tensor([log_prob]), torch.full((1, length), 77.0))
    batch_info = BatchInfo(torch.zeros(1, length, dtype=torch.int64), torch.arange(length + 1)[None])
    return algorithm.preprocess_experience(rows, info, batch_info)


# log mu of the action, where log pi is -log 3 now; value target and advantage of r = 1, V = 4, V' = 2, gamma = 0.5.
@pytest.mark.parametrize(
    ("log_prob", "max_rho", "value_target", "advantage"),
    [
        (-math.log(3.0), 1.0, 2.0, -2.0),  # fresh: 1 + 0.5 * 2
        (-math.log(1.5), 1.0, 3.0, -1.0),  # mu took it twice as often as pi: half of the difference
        (-math.log(12.0), 1.0, 2.0, -2.0),  # four times less often, but at most 1 counts
        (-math.log(12.0), 3.0, -2.0, -6.0),  # at most 3
    ],
)
def test_one_step_by_hand(log_prob, max_rho, value_target, advantage):
    algorithm = make(max_rho=max_rho)
    rows = rows_by_hand([MID, MID], [0.0, 1.0], [1.0, 1.0], [4.0, 2.0])
    inputs, targets = preprocess(algorithm, rows, [log_prob])
    torch.testing.assert_close(targets.value_target, torch.tensor([[value_target]]))
    torch.testing.assert_close(targets.advantage, torch.tensor([[advantage]]))
    assert targets.value.tolist() == [[4.0]]
    assert targets.log_prob.tolist() == [[pytest.approx(log_prob)]]
    assert inputs.observation.shape == (1, 1, 3)
    # The loss has the advantage as it is: it holds its weight already. (4 - v)^2 / 2 is that of the value.
    loss = loss_of(algorithm, inputs, targets).loss.item()
    assert loss == pytest.approx(advantage * math.log(3.0) + 0.5 * (4.0 - value_target) ** 2)


def test_stale_actions_over_two_steps_by_hand():
    # pi / mu is 1/2 in row 0 and 4 in row 1, of which 1 counts as rho and 1 as c; rewards 1 and 3; V = 4, 2, 6.
    rows = rows_by_hand([FIRST, MID, MID], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0], [4.0, 2.0, 6.0])
    _, targets = preprocess(make(), rows, [-math.log(1.5), -math.log(12.0)])
    # delta1 = 3 + 3 - 2 = 4, v1 = 6; delta0 = (1 + 1 - 4) / 2 = -1, v0 = 4 - 1 + 0.5 * 0.5 * (6 - 2) = 4
    torch.testing.assert_close(targets.value_target, torch.tensor([[4.0, 6.0]]))
    # A1 = 3 + 3 - 2, A0 = (1 + 0.5 * 6 - 4) / 2
    torch.testing.assert_close(targets.advantage, torch.tensor([[0.0, 4.0]]))
    # With max_c = 0.25, v0 = 4 - 1 + 0.5 * 0.25 * 4
    _, targets = preprocess(make(max_c=0.25), rows, [-math.log(1.5), -math.log(12.0)])
    torch.testing.assert_close(targets.value_target, torch.tensor([[3.5, 6.0]]))


@pytest.mark.parametrize(("discount", "expected"), [(0.0, -2.0), (1.0, -1.0)])
def test_ends_of_episodes_by_hand(discount, expected):
    # r = 2 on arriving at LAST, whose V = 2 stands for what a time limit cut, and for nothing if it terminated.
    rows = rows_by_hand([MID, LAST, FIRST, MID], [9.0, 2.0, 0.0, 5.0], [1.0, discount, 1.0, 1.0], [4.0, 2.0, 6.0, 8.0])
    _, targets = preprocess(make(), rows, [-math.log(3.0)] * 3)
    torch.testing.assert_close(targets.advantage, torch.tensor([[expected, 0.0, 5.0 + 4.0 - 6.0]]))
    torch.testing.assert_close(targets.value_target, torch.tensor([[4.0 + expected, 2.0, 9.0]]))


def test_of_fresh_data_the_targets_are_those_of_ppo():
    torch.manual_seed(0)
    algorithm = ActorCriticAlgorithm(OBSERVATION, DISCRETE, discount=0.9, v_trace_lambda=0.7)
    rows = random_rows(algorithm)
    info, batch_info = collect(algorithm, rows)
    ppo = PPOAlgorithm(OBSERVATION, DISCRETE, discount=0.9, gae_lambda=0.7)
    ppo.load_state_dict(algorithm.state_dict())
    _, expected = ppo.preprocess_experience(rows, info, batch_info)
    _, targets = algorithm.preprocess_experience(rows, info, batch_info)
    torch.testing.assert_close(targets.advantage, expected.advantage)
    torch.testing.assert_close(targets.value_target, expected.returns)


def test_the_value_and_the_policy_are_those_of_now():
    torch.manual_seed(0)
    algorithm = ActorCriticAlgorithm(OBSERVATION, DISCRETE, discount=0.9)
    rows = random_rows(algorithm)
    info, batch_info = collect(algorithm, rows)
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    inputs, targets = algorithm.preprocess_experience(rows, info, batch_info)
    _, value = algorithm.policy.unroll(inputs, ())
    assert torch.equal(targets.value, value.detach())
    assert not torch.allclose(targets.value, info.value)
    assert loss_of(algorithm, inputs, targets).extra["approximate_kl"].item() > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"v_trace_lambda": 1.1}, r"ActorCriticAlgorithm.v_trace_lambda is 1.1; expected a number in \[0, 1\]"),
        ({"max_rho": 0.5}, "ActorCriticAlgorithm.max_rho is 0.5; expected a finite number of at least 1"),
        ({"max_c": 0.0}, r"ActorCriticAlgorithm.max_c is 0.0; expected a finite number above 0"),
        ({"max_c": 2.0}, r"ActorCriticAlgorithm.max_c is 2.0; expected at most max_rho, 1.0 here"),
        ({"max_c": math.nan}, "ActorCriticAlgorithm.max_c is nan"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
