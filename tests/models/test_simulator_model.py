import gymnasium
import pytest
import torch

from alfish import gin_config
from alfish.environments.gymnasium_simulator import make_gymnasium_simulator
from alfish.environments.simulators.tabular import TabularSimulator, make_tabular_simulator
from alfish.environments.simulators.tic_tac_toe import TicTacToe
from alfish.environments.simulators.twenty_forty_eight import TwentyFortyEight
from alfish.mcts.hindsight import HindsightPolicy
from alfish.mcts.open_loop_policy import OpenLoopPolicy
from alfish.mcts.search import search
from alfish.models.random_rollout import RandomRollout
from alfish.models.simulator_model import SimulatorModel
from alfish.ops.counter_random import make_keys, uniform

INF = torch.inf


def lake(slippery=True):
    return make_tabular_simulator("FrozenLake-v1", {"is_slippery": slippery})


def coin():
    """Both actions of state 0 lead to 1 or 2 with equal probability, with rewards 1 and -1, and then on and on."""
    transitions = torch.tensor([[[0.0, 0.5, 0.5]] * 2] * 3)
    rewards = torch.tensor([0.0, 1.0, -1.0]).expand(3, 2, 3)
    return TabularSimulator.from_arrays(transitions, rewards, torch.zeros(3).bool(), torch.tensor([1.0, 0, 0]))


def play(model, latent, actions):
    """The steps of one sequence of actions in all rows."""
    steps = []
    for action in actions:
        steps.append(model.step(latent, torch.full(latent.key.shape, action)))
        latent = steps[-1].latent
    return steps


def test_roots():
    model = SimulatorModel(TicTacToe(), 0.9)
    state = TicTacToe().initial_state(2)
    state[1, 4] = -1
    root = model.root(state, seed=3)
    assert root.latent.state.equal(state)
    assert root.latent.key.equal(make_keys(3, 2))
    assert root.latent.depth.tolist() == [0, 0]
    assert root.latent.over.tolist() == [False, False]
    assert root.value.tolist() == [0.0, 0.0]
    assert root.prior_logits.tolist() == [[0.0] * 9, [0.0] * 4 + [-INF] + [0.0] * 4]


def test_steps_of_one_player():
    model = SimulatorModel(lake(slippery=False), 0.5)
    steps = play(model, model.root(torch.tensor([14])).latent, [0, 2, 1])
    assert [step.latent.state.item() for step in steps] == [13, 14, 14]
    step = model.step(steps[-1].latent, torch.tensor([2]))
    assert (step.reward.item(), step.discount.item()) == (1.0, 0.0)
    assert [step.discount.item() for step in steps] == [0.5] * 3
    assert [step.latent.depth.item() for step in steps] == [1, 2, 3]


def test_steps_of_two_players():
    model = SimulatorModel(TicTacToe(), 0.9)
    steps = play(model, model.root(TicTacToe().initial_state(1)).latent, [0, 4, 1, 5, 2])
    assert [step.reward.item() for step in steps] == [0, 0, 0, 0, 1]
    assert [step.discount.item() for step in steps] == pytest.approx([-0.9] * 4 + [0.0])
    assert steps[1].prior_logits.tolist() == [[-INF, 0, 0, 0, -INF, 0, 0, 0, 0]]
    assert steps[4].prior_logits.tolist() == [[0.0] * 9]


def test_a_game_that_has_ended_stays_where_it_is():
    # In the second row the game goes on, the first one is over.
    model = SimulatorModel(TwentyFortyEight(), 1.0, rollouts=RandomRollout(3))
    full = torch.tensor([1, 2, 1, 2, 2, 1, 2, 1, 1, 2, 1, 2, 2, 1, 3, 3], dtype=torch.int8)
    root = model.root(torch.stack((full, TwentyFortyEight().initial_state(1)[0])))
    over = root.latent._replace(over=torch.tensor([True, False]))
    step = model.step(over, torch.tensor([3, 3]))
    assert step.latent.state[0].equal(full)
    assert not step.latent.state[1].equal(root.latent.state[1])
    assert step.reward[0] == 0
    assert step.discount.tolist() == [0.0, 1.0]
    assert step.value[0] == 0
    assert step.prior_logits[0].tolist() == [0.0] * 4
    assert step.latent.over.tolist() == [True, False]
    again = model.step(step.latent, torch.tensor([0, 1]))
    assert again.latent.state[0].equal(full)


# Futures


def test_one_key_is_one_future():
    model, num = SimulatorModel(coin(), 1.0), 2000
    latent = model.root(coin().initial_state(num), seed=1).latent
    left, right = play(model, latent, [0] * 4), play(model, latent, [1, 0, 1, 1])
    for one, other in zip(left, right, strict=True):
        assert one.reward.equal(other.reward)
    rewards = torch.stack([step.reward for step in left])
    expected = [uniform(latent.key, depth, 1)[:, 0] for depth in range(4)]
    assert rewards.equal(torch.where(torch.stack(expected) < 0.5, 1.0, -1.0))
    # Independent at other depths, and in other rows: no correlation beyond 4 standard deviations.
    for one in range(4):
        assert abs(rewards[one].mean()) < 4 / num**0.5
        assert abs((rewards[one, 1:] * rewards[one, :-1]).mean()) < 4 / num**0.5
        for other in range(one):
            assert abs((rewards[one] * rewards[other]).mean()) < 4 / num**0.5


def test_keys_can_be_given():
    model, state = SimulatorModel(coin(), 1.0), coin().initial_state(3)
    keys = torch.tensor([5, 5, 6])
    assert model.root(state, keys=keys).latent.key is keys
    rewards = torch.stack([step.reward for step in play(model, model.root(state, keys=keys).latent, [0] * 20)])
    assert rewards[:, 0].equal(rewards[:, 1])
    assert not rewards[:, 0].equal(rewards[:, 2])
    for wrong in (keys[:2], keys.int()):
        with pytest.raises(ValueError, match=r"keys is .*; expected torch\.int64 \[3\], one per state"):
            model.root(state, keys=wrong)


def test_futures_are_independent_of_each_other_and_of_the_row():
    model, num, futures = SimulatorModel(coin(), 1.0), 500, 4
    latent = model.root(coin().initial_state(num)).latent
    split = model.split(latent, futures)
    assert split.state.shape == (num * futures,)
    assert split.key.unique().numel() == num * futures
    assert model.split(latent, 2).key.view(num, 2).equal(split.key.view(num, futures)[:, :2])
    own = torch.stack([step.reward for step in play(model, latent, [0] * 5)])
    drawn = torch.stack([step.reward for step in play(model, split, [0] * 5)]).view(5, num, futures)
    for future in range(futures):
        assert abs((drawn[..., future] * own).mean()) < 4 / (5 * num) ** 0.5
        for other in range(future):
            assert abs((drawn[..., future] * drawn[..., other]).mean()) < 4 / (5 * num) ** 0.5


def test_resampling_draws_another_future_for_each_simulation():
    model, num = SimulatorModel(coin(), 1.0), 500
    latent = model.root(coin().initial_state(num)).latent
    drawn = [play(model, model.resample(latent, number), [0])[0].reward for number in range(6)]
    assert all(abs((drawn[i] * drawn[j]).mean()) < 4 / num**0.5 for i in range(6) for j in range(i))
    assert drawn[3].equal(play(model, model.resample(latent, 3), [0])[0].reward)


def test_split_rows_follow_the_root_they_come_from():
    model = SimulatorModel(lake(), 1.0)
    assert model.split(model.root(torch.tensor([4, 9])).latent, 3).state.tolist() == [4, 4, 4, 9, 9, 9]


# Leaves


def evaluate(observation):
    """Logits that count from 0 and the state's number as the value."""
    return torch.arange(4.0).expand(len(observation), 4), observation.float()


def test_a_network_evaluates_observations():
    model = SimulatorModel(lake(slippery=False), 1.0, evaluate)
    root = model.root(torch.tensor([14, 13]))
    assert root.value.tolist() == [14.0, 13.0]
    step = model.step(root.latent, torch.tensor([2, 2]))
    assert step.value.tolist() == [0.0, 14.0]  # the first has ended at 15
    assert step.prior_logits.tolist() == [[0, 0, 0, 0], [0, 1, 2, 3]]
    assert model.value(step.latent).tolist() == [0.0, 14.0]


def test_what_a_network_says_is_masked():
    def network(observation):
        return torch.ones(len(observation), 9), torch.zeros(len(observation))

    model = SimulatorModel(TicTacToe(), 1.0, network)
    step = model.step(model.root(TicTacToe().initial_state(1)).latent, torch.tensor([8]))
    assert step.prior_logits.tolist() == [[1.0] * 8 + [-INF]]


def test_rollouts_give_the_value():
    model = SimulatorModel(lake(), 1.0, rollouts=RandomRollout(10, 400))
    root = model.root(torch.tensor([14, 14]))
    assert root.value[0] != root.value[1]
    assert root.value.tolist() == pytest.approx([0.45] * 2, abs=0.15)
    assert model.value(root.latent).equal(root.value)


def test_rollouts_do_not_see_the_future_of_the_search():
    model, num = SimulatorModel(coin(), 1.0, rollouts=RandomRollout(1)), 2000
    root = model.root(coin().initial_state(num))
    left, right = (model.step(root.latent, torch.full((num,), action)) for action in (0, 1))
    following = model.step(left.latent, torch.zeros(num, dtype=torch.int64)).reward
    pairs = [(root.value, left.reward), (left.value, following), (left.value, right.value), (root.value, left.value)]
    for one, other in pairs:
        assert set(one.tolist()) == {-1.0, 1.0}
        assert abs((one * other).mean()) < 4 / num**0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 0.0}, r"SimulatorModel\.discount is 0\.0; expected a number in \(0, 1\]"),
        ({"discount": 1.0, "evaluate": evaluate, "rollouts": RandomRollout(1)}, "both evaluate and rollouts"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatorModel(lake(), **options)


def test_a_wrong_simulator_is_named():
    class Wrong(TicTacToe):
        def step(self, state, action, random):
            return super().step(state, action, random)._replace(reward=torch.zeros(1, 1))

    model = SimulatorModel(Wrong(), 1.0)
    with pytest.raises(
        ValueError, match=r"the simulator's reward is torch\.float32 \[1, 1\]; expected torch\.float32 \[1\]"
    ):
        model.step(model.root(TicTacToe().initial_state(1)).latent, torch.tensor([0]))


def test_is_made_by_gin():
    bindings = [
        "SimulatorModel.simulator=@make_tabular_simulator()",
        "make_tabular_simulator.name='FrozenLake-v1'",
        "SimulatorModel.discount=0.9",
        "SimulatorModel.rollouts=@RandomRollout()",
        "RandomRollout.num_steps=5",
        "HindsightPolicy.num_futures=3",
    ]
    gin_config.parse([], bindings)
    model = SimulatorModel()
    root = model.root(torch.tensor([14, 13]))
    assert HindsightPolicy(split=model.split)(root, model.step, 8).search.visits.shape == (6, 4)
    assert OpenLoopPolicy(model.resample)(root, model.step, 8).search.visits.shape == (2, 4)


# Searches


def shortest_path_values(discount):
    """Exact values of the lake without slipping."""
    outcomes, value = lake(slippery=False).outcomes, torch.zeros(16, dtype=torch.float64)
    for _ in range(20):
        following = outcomes.reward + discount * torch.where(outcomes.ends, 0.0, value[outcomes.next_state])
        value = following[..., 0].amax(1)
    return value


def test_a_search_finds_the_way_over_the_lake():
    model = SimulatorModel(lake(slippery=False), 0.9, rollouts=RandomRollout(20, 8))
    exact = shortest_path_values(0.9)
    states = torch.tensor([state for state in range(16) if state not in (5, 7, 11, 12, 15)])
    result = search(model.root(states), model.step, 200)
    outcomes = lake(slippery=False).outcomes
    after = outcomes.next_state[states, result.visits.argmax(1), 0]
    exact[15] = 1 / 0.9
    assert (exact[after] * 0.9).tolist() == pytest.approx(exact[states].tolist())


def captured_lake():
    simulator, real = make_gymnasium_simulator("FrozenLake-v1", shared=("P",)), gymnasium.make("FrozenLake-v1")
    real.reset(seed=0)
    real.unwrapped.s = 14
    return simulator, simulator.capture([real] * 4, [14] * 4)


STARTS = {
    "lake": lambda: (lake(), torch.full((4,), 14)),
    "2048": lambda: (TwentyFortyEight(), TwentyFortyEight().initial_state(4)),
    "copies": captured_lake,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_a_seed_repeats_a_search(start):
    simulator, state = start()
    model = SimulatorModel(simulator, 0.99, rollouts=RandomRollout(4))

    def q_values(seed, rows=4):
        return search(model.root(state[:rows], seed=seed), model.step, 12).q_values

    first = q_values(1)
    assert first.equal(q_values(1))
    assert first[:2].equal(q_values(1, rows=2))
    assert not first.equal(q_values(2))
    assert len(first.unique(dim=0)) > 1


def test_planning_leaves_no_copies():
    simulator = make_gymnasium_simulator("FrozenLake-v1", shared=("P",))
    model = SimulatorModel(simulator, 0.99, rollouts=RandomRollout(4))
    state = simulator.initial_state(2)
    with simulator.planning():
        search(model.root(state), model.step, 20)
        assert simulator.num_kept == 2 + 2 * 20
    assert simulator.num_kept == 2
