"""A user's module with gin configurables, as a gin file imports it."""

import gin
import gymnasium
from toy_environments import Counter


@gin.configurable
class ConfiguredCounter(Counter):
    """A Counter whose length gin sets."""

    def __init__(self, length: int = 5):
        super().__init__(length)


@gin.configurable
class Scaled(gymnasium.RewardWrapper):
    """Multiplies the reward."""

    def __init__(self, env: gymnasium.Env, factor: int = 1):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


if "toy/Configured-v0" not in gymnasium.registry:
    gymnasium.register("toy/Configured-v0", entry_point=ConfiguredCounter)
