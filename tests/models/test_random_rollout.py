"""Random rollouts against exact values of uniform play."""

import functools

import pytest
import torch

from alfish.environments.gymnasium_simulator import make_gymnasium_simulator
from alfish.environments.simulator import SimulatorStep
from alfish.environments.simulators.tabular import make_tabular_simulator
from alfish.environments.simulators.tic_tac_toe import TicTacToe
from alfish.models.random_rollout import RandomRollout, uniform_legal_action
from alfish.ops.counter_random import make_keys


def values(simulator, state, rollout, discount=1.0, seed=0, over=None):
    num = len(simulator.legal_mask(state))
    over = torch.zeros(num, dtype=torch.bool) if over is None else over
    return rollout(simulator, state, over, make_keys(seed, num), discount)


def uniform_values(simulator, num_steps, discount):
    """The exact values `[S]` of `num_steps` uniform actions."""
    outcomes = simulator.outcomes
    value = torch.zeros(simulator.num_states, dtype=torch.float64)
    for _ in range(num_steps):
        following = outcomes.reward + discount * torch.where(outcomes.ends, 0.0, value[outcomes.next_state])
        value = (outcomes.probability * following).sum(2).mean(1)
    return value


@pytest.mark.parametrize(("slippery", "discount", "num_steps"), [(True, 0.9, 30), (False, 1.0, 100), (True, 1.0, 6)])
def test_values_of_the_frozen_lake(slippery, discount, num_steps):
    simulator, num = make_tabular_simulator("FrozenLake-v1", {"is_slippery": slippery}), 4000
    for state in (0, 9, 14):
        found = values(simulator, torch.full((num,), state), RandomRollout(num_steps), discount, seed=state)
        exact = uniform_values(simulator, num_steps, discount)[state].item()
        error = max(found.std().item(), 0.01) / num**0.5
        assert abs(found.mean().item() - exact) < 4 * error
        assert found.std() > 0


def test_more_rollouts_of_each_state_are_their_mean():
    simulator = make_tabular_simulator("FrozenLake-v1")
    state = torch.full((400,), 14)
    one, many = (values(simulator, state, RandomRollout(20, num)) for num in (1, 25))
    assert many.std() * 5 == pytest.approx(one.std().item(), rel=0.15)
    assert abs(many.mean() - uniform_values(simulator, 20, 1.0)[14]) < 4 * one.std() / (400 * 25) ** 0.5


@functools.cache
def exact_outcome(board):
    """What uniform play from a board gives to who moves next."""
    simulator, total = TicTacToe(), 0.0
    free = [square for square in range(9) if board[square] == 0]
    for square in free:
        step = simulator.step(torch.tensor([board], dtype=torch.int8), torch.tensor([square]), torch.empty(1, 0))
        total += step.reward.item()
        if step.discount.item() != 0:
            total -= exact_outcome(tuple(step.state[0].tolist()))
    return total / len(free)


@pytest.mark.parametrize(
    "board", [(1, 0, 0, 0, -1, 0, 0, 0, 0), (1, 1, 0, -1, -1, 0, 0, 0, 0), (-1, -1, 0, 1, 0, 0, 0, 0, 0)]
)
def test_two_players_see_opposite_values(board):
    num = 4000
    found = values(TicTacToe(), torch.tensor([board] * num, dtype=torch.int8), RandomRollout(9))
    assert set(found.tolist()) <= {-1.0, 0.0, 1.0}
    assert abs(found.mean().item() - exact_outcome(board)) < 4 * found.std().item() / num**0.5


def test_the_discount_counts_steps_of_both_players():
    # Two squares are left. At 7 the other one wins by the move after it, at 2 it is a draw.
    board = torch.tensor([[-1, -1, 0, 1, 1, -1, -1, 0, 1]], dtype=torch.int8)
    found = {values(TicTacToe(), board, RandomRollout(9), 0.5, seed=seed).item() for seed in range(20)}
    assert found == {0.0, -0.5}


def test_what_has_ended_is_worth_nothing():
    over = torch.tensor([False, True])
    found = values(make_tabular_simulator("FrozenLake-v1"), torch.tensor([14, 14]), RandomRollout(99, 50), over=over)
    assert found[0] > 0
    assert found[1] == 0


class Poison:
    """Ends at once with reward 1 and then answers nonsense."""

    num_actions = 2
    num_random = 0

    def legal_mask(self, state):
        return torch.ones(len(state), 2, dtype=torch.bool)

    def step(self, state, action, random):
        nonsense = torch.full((len(state),), torch.nan)
        reward, discount = torch.where(state == 0, 1.0, nonsense), torch.where(state == 0, 0.0, nonsense)
        stays = state == 2  # one row goes on, so that the others are stepped after their end
        reward, discount = torch.where(stays, 0.0, reward), torch.where(stays, 1.0, discount)
        return SimulatorStep(torch.where(stays, 2, 1), reward, discount, torch.zeros(len(state), 2, dtype=torch.bool))


def test_answers_after_the_end_are_not_read():
    assert values(Poison(), torch.tensor([0, 2]), RandomRollout(5)).tolist() == [1.0, 0.0]


def test_the_key_decides():
    simulator, state = make_tabular_simulator("FrozenLake-v1"), torch.full((300,), 14)
    rollout = RandomRollout(30)
    found = values(simulator, state, rollout, seed=1)
    assert found.equal(values(simulator, state, rollout, seed=1))
    assert found[:50].equal(values(simulator, state[:50], rollout, seed=1))
    assert not found.equal(values(simulator, state, rollout, seed=2))


def test_copies_of_environments_are_freed():
    simulator = make_gymnasium_simulator("FrozenLake-v1", shared=("P",))
    state = simulator.initial_state(2)
    values(simulator, state, RandomRollout(6, 2))
    assert simulator.num_kept == 2
    values(simulator, state, RandomRollout(6, 2), over=torch.ones(2, dtype=torch.bool))
    assert simulator.observation(state).tolist() == [0, 0]


def test_legal_actions_are_equally_likely():
    num = 6000
    mask = torch.tensor([[True, False, True, True, False]]).expand(num, 5)
    counts = torch.bincount(uniform_legal_action(mask, (torch.arange(num) + 0.5) / num), minlength=5)
    assert counts.tolist() == [2000, 0, 2000, 2000, 0]
    edges = torch.tensor([0.0, 1 - 2.0**-24])
    assert uniform_legal_action(mask[:2], edges).tolist() == [0, 3]
    assert uniform_legal_action(mask[:1, 1:2], edges[:1]).tolist() == [0]


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"num_steps": 1, "num_rollouts": 0}])
def test_numbers_are_checked(options):
    with pytest.raises(ValueError, match=r"RandomRollout\.num_\w+ is 0"):
        RandomRollout(**options)
