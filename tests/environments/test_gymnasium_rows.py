"""What the rows of Gymnasium environments are: episode ends, spaces, actions, seeds."""

import gymnasium
import numpy as np
import pytest
import torch
from environment_rows import collect, column, empty_row, same
from toy_environments import TREE_SPACE, Doubled

from alfish import specs
from alfish.data_structures import StepType
from alfish.environments.gymnasium_adapter import make_gymnasium

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST


@pytest.mark.parametrize(
    ("ends", "discount"), [("terminated", 0.0), ("truncated", 1.0), ("terminated and truncated", 0.0)]
)
def test_episode_end(ends, discount):
    rows = collect(make_gymnasium("toy/Counter-v0", 2, env_kwargs={"ends": ends}), seed=1, steps=5)
    assert column(rows, "step_type") == [FIRST, MID, MID, LAST, FIRST, MID]
    assert column(rows, "reward") == [0, 1, 2, 3, 0, 1]
    assert column(rows, "discount") == [1, 1, 1, discount, 1, 1]
    assert [observation[0] for observation in column(rows, "observation")] == [0, 1, 2, 3, 0, 1]
    assert column(rows, "env_id", 1) == [1] * 6


def test_prev_action_is_zero_on_first_rows_only_and_actions_start_at_zero():
    environment = make_gymnasium("toy/Counter-v0", 2, env_kwargs={"length": 2})
    assert environment.action_spec == specs.BoundedTensorSpec((), torch.int64, 0, 2)
    environment.reset(0, row := empty_row(environment))
    assert row.prev_action.tolist() == [0, 0]
    seen = []
    for action in ([2, 1], [1, 2], [2, 2], [1, 1]):
        environment.step(torch.tensor(action), row)
        seen.append(row.prev_action.tolist())
    assert seen == [[2, 1], [1, 2], [0, 0], [1, 1]]  # the third was given on LAST rows


def test_environments_of_different_length_end_apart():
    class Longer(gymnasium.Wrapper):
        made = 0

        def __init__(self, env):
            super().__init__(env)
            env.unwrapped.length = 2 + Longer.made
            Longer.made += 1

    rows = collect(make_gymnasium("toy/Counter-v0", 2, wrappers=[Longer]), seed=0, steps=6)
    assert column(rows, "step_type", 0) == [FIRST, MID, LAST, FIRST, MID, LAST, FIRST]
    assert column(rows, "step_type", 1) == [FIRST, MID, MID, LAST, FIRST, MID, MID]
    assert column(rows, "reward", 1) == [0, 1, 2, 3, 0, 1, 2]
    assert column(rows, "discount", 0) == [1, 1, 0, 1, 1, 0, 1]


def test_reset_in_the_middle_of_episodes_forgets_their_ends():
    environment = make_gymnasium("toy/Counter-v0", 2)
    collect(environment, seed=0, steps=3)  # ends on LAST
    rows = collect(environment, seed=0, steps=2)
    assert column(rows, "step_type") == [FIRST, MID, MID]


@pytest.mark.parametrize(("name", "limit"), [("toy/Limited-v0", None), ("toy/Limited-v0", 6), ("CartPole-v1", 3)])
def test_time_limit_replaces_the_registered_one(name, limit):
    rows = collect(make_gymnasium(name, 1, time_limit=limit), seed=0, steps=8)
    expected = limit or 4
    assert column(rows, "step_type").index(LAST) == expected
    assert rows[expected].discount.tolist() == [1.0]


def test_wrappers_apply_in_order_to_each_environment():
    environment = make_gymnasium("toy/Counter-v0", 2, wrappers=[Doubled, gymnasium.wrappers.FlattenObservation])
    assert column(collect(environment, seed=0, steps=3), "reward", 1) == [0, 2, 4, 6]


def test_nested_observations_and_actions():
    environment = make_gymnasium("toy/Tree-v0", 2)
    spec = environment.observation_spec
    assert spec["camera"] == specs.BoundedTensorSpec((2, 3), torch.uint8, 0, 255)
    assert spec["place"][0] == specs.BoundedTensorSpec((), torch.int64, 0, 4)
    assert spec["place"][1].dtype == torch.float32
    assert spec["dials"] == specs.BoundedTensorSpec((2,), torch.int64, 0, (2, 3))
    assert spec["bits"] == specs.BoundedTensorSpec((3,), torch.int8, 0, 1)
    assert environment.action_spec["keys"] == specs.BoundedTensorSpec((2,), torch.int64, 0, (1, 2))

    environment.reset(0, row := empty_row(environment))
    single = environment._env.envs[0]
    action = {"keys": torch.tensor([[0, 2], [1, 0]]), "force": torch.tensor([[-5.0, 0.5], [0.0, 0.25]])}
    environment.step(action, row)
    action["force"].zero_()  # the environment holds a copy
    given = single.unwrapped.actions[0]
    assert given["keys"].tolist() == [5, 2]
    assert given["force"].tolist() == [-5.0, 0.5]  # not clipped
    assert given["force"].dtype == np.float64
    assert row.prev_action["keys"].tolist() == [[0, 2], [1, 0]]
    raw = environment._env._env_obs[1]
    assert raw in TREE_SPACE
    assert row.observation["camera"][1].tolist() == raw["camera"].tolist()
    assert row.observation["place"][0][1].item() == raw["place"][0] - 2
    np.testing.assert_allclose(row.observation["place"][1][1].numpy(), raw["place"][1], rtol=1e-6)
    assert row.observation["dials"][1].tolist() == (raw["dials"] - np.array([1, -1])).tolist()


@pytest.mark.parametrize(
    ("name", "vectorization"),
    [("CartPole-v1", "sync"), ("CartPole-v1", "native"), ("toy/Tree-v0", "sync"), ("Pendulum-v1", "sync")],
)
def test_rows_follow_from_seed_and_actions(name, vectorization):
    environment = make_gymnasium(name, 3, vectorization)
    first = collect(environment, seed=5, steps=60)
    collect(environment, seed=6, steps=17, action_seed=1)
    assert same(first, collect(environment, seed=5, steps=60))
    assert same(first, collect(make_gymnasium(name, 3, vectorization), seed=5, steps=60))
    assert not same(first, collect(environment, seed=6, steps=60))


def test_each_environment_has_a_seed_of_its_own():
    row = collect(make_gymnasium("toy/Counter-v0", 4), seed=0, steps=0)[0]
    assert len(set(row.observation[:, 1].tolist())) == 4


def test_rebuild_on_reset_forgets_what_outlives_a_seeded_reset():
    plain, rebuilt = (make_gymnasium("toy/KeepsState-v0", 2, rebuild_on_reset=flag) for flag in (False, True))
    assert not same(collect(plain, 0, 9), collect(plain, 0, 9))
    assert same(collect(rebuilt, 0, 9), collect(rebuilt, 0, 9))


def test_native_cart_pole_plays_by_the_rules_of_the_single_one():
    """Replays the native environment's states through the single one: same physics, rewards, ends and time limit."""
    environment = make_gymnasium("CartPole-v1", 4, "native", time_limit=30)
    rows = collect(environment, seed=2, steps=300)
    single = gymnasium.make("CartPole-v1").unwrapped
    ends = 0
    for index in range(4):
        length = 0
        for before, after in zip(rows[:-1], rows[1:], strict=True):
            if after.is_first()[index]:
                assert before.is_last()[index]
                assert after.observation[index].abs().max() <= 0.05
                length = 0
                continue
            length += 1
            single.reset()
            single.state = before.observation[index].numpy().astype(np.float64)
            observation, reward, terminated, _, _ = single.step(int(after.prev_action[index]))
            np.testing.assert_allclose(after.observation[index].numpy(), observation, rtol=1e-4, atol=1e-6)
            assert after.reward[index] == reward
            assert (after.discount[index] == 0) == terminated
            assert bool(after.is_last()[index]) == (terminated or length == 30)
            ends += bool(after.is_last()[index])
    assert ends > 20
