"""Algorithms whose hooks raise, for the tests of what a user then reads."""

import gin
import torch

from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.data_structures import AlgStep


@gin.configurable
class Broken(PPOAlgorithm):
    """Raises where `where` says."""

    def __init__(self, observation_spec, action_spec, where: str = gin.REQUIRED, **settings):
        super().__init__(observation_spec, action_spec, **settings)
        self.where = where
        self.calls = 0

    def rollout_step(self, time_step, state):
        self.calls += 1
        if self.where == "misspells" or (self.where == "misspells later" and self.calls > 6):
            return time_step.reword
        return super().rollout_step(time_step, state)

    def predict_step(self, time_step, state):
        if self.where == "unpacks":
            first, second = (1, 2, 3)
            return first, second
        return super().predict_step(time_step, state)

    def train_step(self, inputs, state, rollout_info):
        if self.where == "multiplies":
            return AlgStep(_multiplied(inputs.reward))
        return super().train_step(inputs, state, rollout_info)

    def after_update(self, progress):
        if self.where == "divides":
            return 1 / 0
        return super().after_update(progress)


def _multiplied(reward):
    return torch.zeros(3, 2) @ torch.zeros(3, 2)
