"""Names of actions."""

import gymnasium
import pytest

from alfish.environments.action_names import action_names
from alfish.environments.atari import make_atari
from alfish.environments.gymnasium_adapter import make_gymnasium


class Named(gymnasium.Env):
    """Two actions with names, or as many names as are given."""

    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, names=("left", "right")):
        self.names = names

    def get_action_meanings(self):
        return list(self.names)


@pytest.mark.parametrize(("names", "expected"), [(("left", "right"), ("left", "right")), (("left",), ())])
def test_names_that_the_environment_tells(names, expected):
    env = gymnasium.vector.SyncVectorEnv([lambda: Named(names)] * 2)
    assert action_names(env) == expected
    env.close()


def test_an_environment_without_names():
    environment = make_gymnasium("CartPole-v1", num_envs=1)
    assert environment.action_names == ()
    environment.close()


def test_atari():
    pytest.importorskip("ale_py")
    environment = make_atari("breakout", num_envs=1)
    assert environment.action_names == ("NOOP", "FIRE", "RIGHT", "LEFT")
    environment.close()
