"""An experiment that worker processes can make, for tests of evaluation."""

import os
import signal
import time

import gin
import torch
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.data_structures import AlgStep
from alfish.trainers.experiment import Experiment


class Learning(TinyAlgorithm):
    """Acts by its weights, and notes when it was told how far the run has come."""

    def __init__(self, observation_spec, action_spec):
        super().__init__(observation_spec, action_spec)
        self.updates_of_schedule = -1

    def predict_step(self, time_step, state):
        return AlgStep((self.layer(time_step.observation).squeeze(-1) > 0).long(), state)

    def after_train_iter(self, progress):
        super().after_train_iter(progress)
        self.updates_of_schedule = progress.updates


class Rewarding(ScriptedEnvironment):
    """The reward is the action: returns tell what the weights chose."""

    def step(self, action, out):
        super().step(action, out)
        out.reward.copy_(out.reward * action)


class Raising(Rewarding):
    """Raises."""

    def step(self, action, out):
        raise ValueError("the evaluation's environment is broken")


class Held(Rewarding):
    """Waits for a file before each step."""

    def __init__(self, num_envs, release):
        super().__init__(num_envs)
        self.release = release

    def step(self, action, out):
        while not self.release.exists():
            time.sleep(0.01)
        super().step(action, out)


class Dying(Rewarding):
    """Kills the worker process that it is in, unless the file `died` is there already."""

    def __init__(self, num_envs, died):
        super().__init__(num_envs)
        self.died = died

    def step(self, action, out):
        super().step(action, out)
        if torch.multiprocessing.parent_process() is not None and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def make_experiment(evaluation_environment=Rewarding):
    """An experiment whose returns depend on the weights, evaluated by 3 episodes."""
    if torch.multiprocessing.parent_process() is not None:
        gin.bind_parameter("Evaluator.episodes", 3)
    return Experiment(environment=Rewarding, algorithm=Learning, evaluation_environment=evaluation_environment)
