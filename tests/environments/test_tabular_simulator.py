import gymnasium
import pytest
import torch

from alfish.environments.simulators.tabular import Outcomes, TabularSimulator, make_tabular_simulator
from alfish.specs import BoundedTensorSpec, TensorSpec

TRANSITIONS = torch.tensor([[[0.5, 0.2, 0.3], [0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0], [0.25, 0.75, 0.0]], [[0.0] * 3] * 2])
TERMINAL = torch.tensor([False, False, True])
START = torch.tensor([1.0, 0.0, 0.0])


def grid(num):
    return ((torch.arange(num) + 0.5) / num).unsqueeze(1)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "CliffWalking-v1"])
def test_outcomes_are_those_of_gymnasium(name):
    simulator, table, num = make_tabular_simulator(name), gymnasium.make(name).unwrapped.P, 1200
    assert (simulator.num_states, simulator.num_actions) == (len(table), len(table[0]))
    for state in table:
        for action in table[state]:
            expected = {}
            for probability, after, reward, ends in table[state][action]:
                key = (after, float(reward), not ends)
                expected[key] = expected.get(key, 0.0) + probability
            step = simulator.step(torch.full((num,), state), torch.full((num,), action), grid(num))
            rows = torch.stack((step.state.double(), step.reward.double(), step.discount.double()), dim=1)
            found, counts = rows.unique(dim=0, return_counts=True)
            assert {
                tuple(row): n / num for row, n in zip(found.tolist(), counts.tolist(), strict=True)
            } == pytest.approx(expected, abs=2 / num)


def test_a_slippery_lake_is_random_and_a_rough_one_is_not():
    assert make_tabular_simulator("FrozenLake-v1").num_random == 1
    simulator = make_tabular_simulator("FrozenLake-v1", {"is_slippery": False})
    assert simulator.num_random == 0
    path, state, rewards = [1, 1, 2, 1, 2, 2], simulator.initial_state(1), []
    for action in path:
        step = simulator.step(state, torch.tensor([action]), torch.empty(1, 0))
        state, rewards = step.state, [*rewards, step.reward.item()]
    assert (state.item(), rewards, step.discount.item()) == (15, [0, 0, 0, 0, 0, 1], 0.0)


def test_from_dense_arrays():
    rewards = torch.arange(18.0).view(3, 2, 3)
    simulator = TabularSimulator.from_arrays(TRANSITIONS, rewards, TERMINAL, START)
    step = simulator.step(torch.zeros(10, dtype=torch.int64), torch.zeros(10, dtype=torch.int64), grid(10))
    assert step.state.tolist() == [0] * 5 + [1] * 2 + [2] * 3
    assert step.reward.tolist() == [0.0] * 5 + [1.0] * 2 + [2.0] * 3
    assert step.discount.tolist() == [1.0] * 7 + [0.0] * 3
    assert step.legal_mask.all()
    # A terminal state stays, whatever its rows say.
    step = simulator.step(torch.tensor([2, 2]), torch.tensor([0, 1]), grid(2))
    assert (step.state.tolist(), step.reward.tolist(), step.discount.tolist()) == ([2, 2], [0, 0], [0, 0])


def test_rewards_of_actions():
    rewards = torch.arange(6.0).view(3, 2)
    simulator = TabularSimulator.from_arrays(TRANSITIONS, rewards, TERMINAL, START)
    step = simulator.step(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1]), grid(3))
    assert step.reward.tolist() == [1.0, 2.0, 3.0]


def test_the_largest_random_number_takes_the_last_possible_outcome():
    thirds = torch.full((1, 1, 4), 0.3333333, dtype=torch.float64)  # a sum below the largest random number
    thirds[0, 0, 3] = 0.0
    outcomes = Outcomes(thirds, torch.zeros(1, 1, 4).long(), torch.arange(4.0).view(1, 1, 4), thirds > 1)
    simulator = TabularSimulator(outcomes, torch.ones(1))
    step = simulator.step(torch.tensor([0]), torch.tensor([0]), torch.tensor([[1 - 2.0**-24]]))
    assert step.reward.tolist() == [2.0]


def test_masks():
    mask = torch.tensor([[True, True], [False, True], [True, True]])
    simulator = TabularSimulator.from_arrays(TRANSITIONS, torch.zeros(3, 2), TERMINAL, START, mask)
    assert simulator.legal_mask(torch.tensor([1, 0])).tolist() == [[False, True], [True, True]]
    assert simulator.step(torch.tensor([0]), torch.tensor([1]), grid(1)).legal_mask.tolist() == [[False, True]]


def test_first_states_are_drawn():
    start = torch.tensor([0.25, 0.0, 0.75])
    simulator = TabularSimulator.from_arrays(TRANSITIONS, torch.zeros(3, 2), TERMINAL, start)
    counts = torch.bincount(simulator.initial_state(4000, 1), minlength=3)
    assert counts[1] == 0
    assert abs(counts[0] - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


WRONG = [
    ({"transitions": TRANSITIONS[:, :, :2]}, r"transitions is \[3, 2, 2\]"),
    ({"rewards": torch.zeros(3)}, r"rewards \[3\]; expected"),
    ({"terminal": torch.zeros(3)}, r"terminal is torch\.float32 \[3\]; expected torch\.bool \[3\]"),
    ({"initial": torch.tensor([0.5, 0.0, 0.0])}, r"initial is \[0\.5, 0\.0, 0\.0\]; expected 3 probabilities"),
    ({"transitions": TRANSITIONS * 0.5}, r"action 0 in state 0 has the probabilities \[0\.25.*\]; expected a sum of 1"),
    ({"legal_mask": torch.ones(3, 2)}, r"legal_mask is torch\.float32 \[3, 2\]; expected torch\.bool \[3, 2\]"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_arrays(change, message):
    arrays = {"transitions": TRANSITIONS, "rewards": torch.zeros(3, 2), "terminal": TERMINAL, "initial": START}
    with pytest.raises(ValueError, match=message):
        TabularSimulator.from_arrays(**(arrays | change))


def test_wrong_next_state():
    one = torch.ones(1, 1, 1)
    with pytest.raises(ValueError, match="an outcome of action 0 in state 0 leads to a state beyond 0 … 0"):
        TabularSimulator(Outcomes(one, one.long(), one, one < 0), torch.ones(1))
    with pytest.raises(ValueError, match=r"outcomes\.reward is \[1\]; expected \[S, A, O\]"):
        TabularSimulator(Outcomes(one, one.long() - 1, one[0, 0], one < 0), torch.ones(1))


def test_environments_without_tables():
    with pytest.raises(ValueError, match="'CartPole-v1' has no tables P and initial_state_distrib"):
        make_tabular_simulator("CartPole-v1")
    with pytest.raises(ValueError, match="'FrozenLake-v99' cannot be made"):
        make_tabular_simulator("FrozenLake-v99")


def test_another_map_than_the_environments_is_refused():
    simulator = make_tabular_simulator("FrozenLake-v1")
    simulator.check_state_spec(BoundedTensorSpec((), torch.int64, 0, 15))
    for other in (BoundedTensorSpec((), torch.int64, 0, 63), TensorSpec((4,))):
        with pytest.raises(ValueError, match="the simulator has 16 states and the environment's observation is"):
            simulator.check_state_spec(other)
