"""Wrappers that change what an environment shows."""

import functools

import gymnasium
import numpy as np
import pytest
import torch
from environment_rows import collect
from gymnasium import spaces

from alfish.environments.gymnasium_adapter import make_gymnasium
from alfish.environments.observation_wrappers import ChannelsFirst, KeptNumbers


class Picture(gymnasium.Env):
    """Shows one image of height 2, width 3 and 4 channels, whose numbers count from 0."""

    observation_space = spaces.Box(0, 1, (2, 3, 4), np.bool_)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.arange(24).reshape(2, 3, 4) % 5 == 0, {}


def test_what_is_hidden_is_not_in_the_rows():
    hidden = functools.partial(KeptNumbers, indices=(2, 0))
    environment = make_gymnasium("CartPole-v1", 2, wrappers=(hidden,))
    whole = make_gymnasium("CartPole-v1", 2)
    for row, full in zip(collect(environment, 3, 30), collect(whole, 3, 30), strict=True):
        assert torch.equal(row.observation, full.observation[:, [2, 0]])
        assert torch.equal(row.step_type, full.step_type)
    low, high = environment.observation_spec.bounds()
    full_low, full_high = whole.observation_spec.bounds()
    assert torch.equal(low, full_low[[2, 0]])
    assert torch.equal(high, full_high[[2, 0]])
    environment.close()
    whole.close()


@pytest.mark.parametrize("indices", [(), (0, 4), (-1,), (1, 1)])
def test_indices_that_are_not_there_are_refused(indices):
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"KeptNumbers.indices is \(.*\); expected different whole numbers in 0…3"):
        KeptNumbers(env, indices)


def test_numbers_are_kept_of_vectors_only():
    with pytest.raises(ValueError, match="a Box of one axis, not of Box"):
        KeptNumbers(Picture(), (0,))


def test_channels_come_first():
    env = ChannelsFirst(Picture())
    observation, _ = env.reset(seed=0)
    assert env.observation_space.shape == observation.shape == (4, 2, 3)
    assert env.observation_space.dtype == observation.dtype == np.bool_
    assert observation.flags.c_contiguous
    # Number h * 12 + w * 4 + c of the picture, and every fifth is set.
    for channel, height, width in np.ndindex(4, 2, 3):
        assert observation[channel, height, width] == ((height * 12 + width * 4 + channel) % 5 == 0)


def test_only_images_have_channels():
    with pytest.raises(ValueError, match=r"one image, a Box \(height, width, channels\), not Box"):
        ChannelsFirst(gymnasium.make("CartPole-v1"))
