import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces, wrappers
from gymnasium.utils import EzPickle

from alfish import gin_config
from alfish.environments.environment_copies import StateAccess, copy_environment, find_state_access, reseed
from alfish.environments.gymnasium_simulator import EnvironmentState, GymnasiumSimulator, make_gymnasium_simulator
from alfish.environments.simulator import check_simulator
from alfish.environments.simulators.tabular import make_tabular_simulator


class Walk(gymnasium.Env):
    """Steps of random length; the end is at 5. Action 5 waits, and is legal at even positions only."""

    observation_space = spaces.Dict(
        {"place": spaces.Box(-1e9, 1e9, (), np.float64), "steps": spaces.Discrete(99, start=1)}
    )
    action_space = spaces.Discrete(2, start=4)

    def __init__(self):
        self.place, self.steps = np.zeros(()), 0

    def seen(self):
        return {"place": self.place, "steps": self.steps + 1}, {
            "action_mask": np.array([1, self.steps % 2 == 0], np.int8)
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place[...], self.steps = 0.0, 0
        return self.seen()

    def step(self, action):
        self.place += (action == 4) * self.draw()
        self.steps += 1
        observation, info = self.seen()
        return observation, float(self.place), bool(self.place > 5), False, info

    def draw(self):
        return self.np_random.random()


class OpenWalk(Walk):
    """Its state can be read and written."""

    def get_state(self):
        return {"place": self.place, "steps": self.steps}

    def set_state(self, state):
        self.place, self.steps = state["place"], int(state["steps"])


class PickledWalk(Walk, EzPickle):
    """copy.deepcopy would make a new one."""

    def __init__(self):
        Walk.__init__(self)
        EzPickle.__init__(self)


def limited(env_class, steps=20):
    return lambda: wrappers.TimeLimit(env_class(), steps)


CASES = {
    "copies": limited(Walk),
    "pickled by arguments": limited(PickledWalk),
    "state": limited(OpenWalk),
    "cart pole": lambda: gymnasium.make("CartPole-v1"),
    "frame stack": lambda: wrappers.FrameStackObservation(gymnasium.make("CartPole-v1"), 3),
    "blackjack": lambda: gymnasium.make("Blackjack-v1"),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def make_env(request):
    return request.param


def test_keeps_the_protocol(make_env):
    simulator = GymnasiumSimulator(make_env)
    with simulator.planning():
        check_simulator(simulator, num_games=4, num_steps=25)
    assert simulator.num_kept == 0


def everything(env):
    """All that an environment holds, as text."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    names = [{name: value for name, value in vars(layer).items() if name != "env"} for layer in layers]
    with np.printoptions(floatmode="unique"):
        return repr(
            [[(name, getattr(value, "bit_generator", value)) for name, value in each.items()] for each in names]
        )


def test_the_real_environment_is_left_untouched(make_env):
    real, twin = make_env(), make_env()
    (observation, info), _ = real.reset(seed=3), twin.reset(seed=3)
    simulator = GymnasiumSimulator(make_env)
    for time in range(6):
        before = everything(real), real.unwrapped.np_random.bit_generator.state
        state = simulator.capture([real], [observation], [info])
        for _ in range(3):
            random = torch.rand(1, 2, generator=torch.Generator().manual_seed(time))
            state = simulator.step(state, simulator.legal_mask(state).int().argmax(1), random).state
        assert (everything(real), real.unwrapped.np_random.bit_generator.state) == before
        mask = info.get("action_mask", np.ones(1))
        action = real.action_space.start + int(mask.argmax())
        observation, reward, terminated, truncated, info = real.step(action)
        expected = twin.step(action)
        np.testing.assert_equal((observation, reward, terminated, truncated), expected[:4])
        if terminated or truncated:
            break


def test_the_future_is_not_the_real_one():
    real = limited(Walk)()
    simulator = GymnasiumSimulator(limited(Walk))
    state = simulator.capture([real], *([part] for part in real.reset(seed=0)))
    state = state.expand(200)
    random = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    rewards = simulator.step(state, torch.zeros(200, dtype=torch.int64), random).reward
    assert rewards.unique().numel() == 200
    assert abs(rewards.mean() - 0.5) < 4 * (1 / 12 / 200) ** 0.5
    again = simulator.step(state, torch.zeros(200, dtype=torch.int64), random).reward
    assert rewards.equal(again)
    assert (rewards != real.step(4)[1]).all()


def test_slips_as_often_as_the_lake_says():
    simulator = make_gymnasium_simulator("FrozenLake-v1", shared=("P",))
    table = make_tabular_simulator("FrozenLake-v1")
    real = gymnasium.make("FrozenLake-v1")
    real.reset(seed=0)
    real.unwrapped.s = 9
    state = simulator.capture([real], [9]).expand(600)
    random = torch.rand(600, 2, generator=torch.Generator().manual_seed(1))
    with simulator.planning():
        after = simulator.observation(simulator.step(state, torch.full((600,), 1), random).state)
    expected = table.outcomes.next_state[9, 1].tolist()
    counts = [int((after == place).sum()) for place in expected]
    assert sum(counts) == 600
    assert all(abs(count - 200) < 4 * (600 * 2 / 9) ** 0.5 for count in counts)


def test_observations_masks_and_ends():
    simulator = GymnasiumSimulator(limited(Walk, steps=3))
    state = simulator.initial_state(2)
    assert simulator.num_actions == 2
    assert simulator.observation(state)["steps"].tolist() == [0, 0]
    assert simulator.observation(state)["place"].dtype == torch.float32
    assert simulator.legal_mask(state).tolist() == [[True, True]] * 2
    for time in range(1, 5):
        step = simulator.step(state, torch.tensor([0, 1]), torch.full((2, 2), 0.5))
        state = step.state
        over = time >= 3  # a time limit ends the game, and what has ended stays as it is
        assert step.discount.tolist() == [float(not over)] * 2
        assert simulator.observation(state)["steps"].tolist() == [min(time, 3)] * 2
        assert step.legal_mask.tolist() == [[True, min(time, 3) % 2 == 0]] * 2
    assert step.reward.tolist() == [0.0, 0.0]


def test_a_mask_by_a_function():
    simulator = GymnasiumSimulator(limited(Walk), legal_mask=lambda env: [False, True])
    assert simulator.legal_mask(simulator.initial_state(1)).tolist() == [[False, True]]
    with pytest.raises(ValueError, match=r"the action mask of Walk is .*; expected 2 booleans"):
        GymnasiumSimulator(limited(Walk), legal_mask=lambda env: [True])


def test_states_as_tensors():
    simulator = GymnasiumSimulator(limited(OpenWalk))
    state = simulator.initial_state(3)
    assert isinstance(state, EnvironmentState)
    assert state.inner["inner"]["steps"].tolist() == [0, 0, 0]
    assert state.inner["steps"].tolist() == [[0]] * 3  # of the time limit
    assert simulator.num_kept == 0


def test_states_by_given_functions():
    access = StateAccess(lambda env: env.unwrapped.state, lambda env, state: setattr(env.unwrapped, "state", state))
    simulator = GymnasiumSimulator(lambda: gymnasium.make("CartPole-v1"), stochastic=False, state_access=access)
    assert simulator.num_random == 0
    assert simulator.initial_state(2).inner.shape == (2, 4)


# Lifetime of copies


def test_copies_live_until_they_are_released():
    simulator = GymnasiumSimulator(limited(Walk), capacity=8)
    state = simulator.initial_state(2)
    with simulator.planning():
        inner = simulator.step(state, torch.tensor([0, 0]), torch.rand(2, 2)).state
        assert simulator.num_kept == 4
    assert simulator.num_kept == 2
    with pytest.raises(ValueError, match=r"the state \d+ of Walk is not kept any more"):
        simulator.observation(inner)
    simulator.release(state[:1])
    assert simulator.num_kept == 1
    assert simulator.observation(state[1:])["steps"].tolist() == [0]
    simulator.close()
    assert simulator.num_kept == 0


def test_no_more_copies_than_the_capacity():
    simulator = GymnasiumSimulator(limited(Walk), capacity=4)
    state = simulator.initial_state(3)
    with pytest.raises(
        ValueError, match=r"of Walk keeps 3 copies, and 3 more are beyond its capacity of 4; search inside"
    ):
        simulator.step(state, torch.zeros(3, dtype=torch.int64), torch.rand(3, 2))


# What cannot be copied


class Locked(Walk):
    """Holds what has no copy."""

    def __init__(self):
        super().__init__()
        self.stream = (number for number in range(9))


class Forgetful(OpenWalk):
    """Leaves its place out of its state."""

    def get_state(self):
        return {"place": np.zeros(()), "steps": self.steps}


class Private(Walk):
    """Draws from where nobody can look."""

    stream = np.random.default_rng(0)

    def draw(self):
        return self.stream.random()


class Breaking(OpenWalk):
    """Cannot go on from a state that was written."""

    def set_state(self, state):
        self.place = None


WRONG = [
    (Locked, {}, r"Locked cannot be copied, because of Locked: cannot pickle 'generator' object\. Make it without"),
    (Forgetful, {}, r"a copy of Forgetful does not go on .* in step \d its observation is"),
    (Private, {}, r"a copy of Private does not go on .* random numbers come from elsewhere"),
    (Breaking, {}, r"a copy of Breaking does not go on .* it raises TypeError"),
    (Walk, {"stochastic": False}, r"a step of Walk draws random numbers; make its simulator with stochastic=True"),
    (Walk, {"shared": ("tables",)}, r"shared has 'tables'; expected attributes of Walk"),
    (Walk, {"capacity": 0}, r"capacity"),
]


@pytest.mark.parametrize(("env_class", "options", "message"), WRONG)
def test_what_cannot_be_copied_is_said(env_class, options, message):
    with pytest.raises(ValueError, match=message):
        GymnasiumSimulator(limited(env_class), **options)


def test_continuous_actions():
    with pytest.raises(ValueError, match=r"'Pendulum-v1' has the actions Box.*; a simulator needs one Discrete action"):
        make_gymnasium_simulator("Pendulum-v1")
    with pytest.raises(ValueError, match="'Pendulun-v1' cannot be made"):
        make_gymnasium_simulator("Pendulun-v1")


def test_a_copy_goes_on_where_the_environment_is():
    env = limited(PickledWalk)()
    env.reset(seed=0)
    env.step(4)
    other = copy_environment(env)
    assert other.unwrapped.place == env.unwrapped.place > 0
    assert other.step(4)[:2] == env.step(4)[:2]
    other.step(4)
    assert other.unwrapped.place > env.unwrapped.place


def test_reseeding_reaches_the_wrappers():
    class Noisy(gymnasium.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            self.own = np.random.default_rng(0)

    env = Noisy(Walk())
    reseed(env, 5)
    assert env.own is env.unwrapped.np_random
    first = env.own.random()
    reseed(env, 5)
    assert env.own.random() == first


def test_state_access_is_not_used_below_wrappers_that_keep_something():
    assert find_state_access(limited(OpenWalk)()) is not None
    assert find_state_access(limited(Walk)()) is None
    assert find_state_access(wrappers.RecordEpisodeStatistics(OpenWalk())) is None
    assert find_state_access(wrappers.TransformReward(OpenWalk(), lambda reward: reward)) is not None


def test_is_made_by_gin():
    gin_config.parse([], ["make_gymnasium_simulator.name='CartPole-v1'", "make_gymnasium_simulator.stochastic=False"])
    assert make_gymnasium_simulator().num_random == 0


# Atari


@pytest.fixture
def atari():
    ale_py = pytest.importorskip("ale_py", reason="needs the extra atari")
    gymnasium.register_envs(ale_py)


def test_atari_states(atari):
    simulator = make_gymnasium_simulator("ALE/Pong-v5", {"repeat_action_probability": 0.0}, stochastic=False)
    check_simulator(simulator, num_games=2, num_steps=4)
    assert simulator.initial_state(1).inner["inner"].dtype == torch.uint8


def test_sticky_actions_are_refused(atari):
    with pytest.raises(ValueError, match=r"'ALE/Pong-v5' has repeat_action_probability=0\.25, drawn from"):
        make_gymnasium_simulator("ALE/Pong-v5")
