"""What engines.py collects: the environments, and one policy that all contenders ask.

Worker processes import this module: a gin file names it.
"""

import time
from typing import Any

import gin
import gymnasium
import numpy as np
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, TimeStep

NAMES = {"cartpole": "CartPole-v1", "spin": "benchmark/Spin-v0"}
"""Workloads that Gymnasium makes."""
FRAMES = 4
"""Stacked frames that the policy of an Atari game sees."""


class SpinEnvironment(gymnasium.Env):
    """An environment whose step computes for a millisecond; episodes have 200 steps.

    Args:
        milliseconds: of computing time; not of sleep, which would cost no core.
    """

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, milliseconds: float = 1.0):
        self._seconds = milliseconds / 1000
        self._step = 0
        self._observation = np.zeros(4, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begins an episode."""
        super().reset(seed=seed)
        self._step = 0
        return self._observation.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Takes a step."""
        del action
        end = time.thread_time() + self._seconds
        while time.thread_time() < end:
            pass
        self._step += 1
        return self._observation.copy(), 1.0, False, self._step == 200, {}


gymnasium.register("benchmark/Spin-v0", SpinEnvironment)


class PolicyNetwork(torch.nn.Module):
    """Logits and a value: two hidden layers of 64 for vectors; the three convolutions of Mnih et al. (2015) for frames.

    Args:
        shape: of an observation: `(features,)` or `(channels, 84, 84)`.
        num_actions: A.
    """

    def __init__(self, shape: tuple[int, ...], num_actions: int):
        super().__init__()
        self._scale = 1.0 if len(shape) == 1 else 1 / 255
        if len(shape) == 1:
            layers = [torch.nn.Linear(shape[0], 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh()]
            self._body = torch.nn.Sequential(*layers)
        else:
            sizes = ((shape[0], 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
            convolutions = [layer for size in sizes for layer in (torch.nn.Conv2d(*size), torch.nn.ReLU())]
            dense = [torch.nn.Flatten(), torch.nn.Linear(3136, 512), torch.nn.ReLU()]
            self._body = torch.nn.Sequential(*convolutions, *dense)
        self._head = torch.nn.Linear(64 if len(shape) == 1 else 512, num_actions + 1)

    def act(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draws actions for observations `[B, ...]`.

        Returns:
            `(action, log_prob, value)`, each `[B]`.
        """
        x = observation.float()
        output = self._head(self._body(x * self._scale if self._scale != 1.0 else x))
        log_probs = torch.log_softmax(output[:, :-1], dim=1)
        action = torch.multinomial(log_probs.exp(), 1)
        return action.squeeze(1), log_probs.gather(1, action).squeeze(1), output[:, -1]


@gin.configurable
class PolicyAlgorithm(Algorithm):
    """Acts by a PolicyNetwork, and stores log-probabilities and values, as PPO does; is never trained."""

    def __init__(self, observation_spec: nest.Nest, action_spec: nest.Nest):
        super().__init__(observation_spec, action_spec)
        self.network = PolicyNetwork(observation_spec.shape, int(action_spec.maximum) + 1)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """Acts."""
        action, log_prob, value = self.network.act(time_step.observation)
        return AlgStep(action, state, {"log_prob": log_prob, "value": value})


def config(workload: str) -> str:
    """The gin text of an experiment: `"cartpole"`, `"spin"` (1 ms a step) or `"atari"`."""
    modules, lines = ["engine_workloads"], ["Experiment.algorithm = @PolicyAlgorithm"]
    if workload == "atari":
        modules += ["alfish.environments.atari", "alfish.networks.preprocessing"]
        lines += ["Experiment.environment = @make_atari", "make_atari.game = 'pong'", "make_atari.num_threads = 1"]
        lines += ["Experiment.observation_transform = @FrameStack", f"FrameStack.num_frames = {FRAMES}"]
    else:
        modules += ["alfish.environments.gymnasium_adapter"]
        lines += ["Experiment.environment = @make_gymnasium", f"make_gymnasium.name = '{NAMES[workload]}'"]
    return "\n".join([*(f"import {module}" for module in modules), *lines])


def make_peer_environment(workload: str) -> gymnasium.Env:
    """One environment for the vector environments of others, with the same preprocessing."""
    if workload != "atari":
        return gymnasium.make(NAMES[workload])
    import ale_py  # the peers run where it is installed

    gymnasium.register_envs(ale_py)
    env = gymnasium.make("ALE/Pong-v5", frameskip=1, repeat_action_probability=0.25)
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84)
    return gymnasium.wrappers.FrameStackObservation(env, FRAMES)
