"""A scripted environment and a small algorithm for tests of what is around them."""

from typing import NamedTuple

import torch

from alfish import specs
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, LossInfo, RowsNeeded, StepType
from alfish.environments.environment import VectorEnvironment


class ScriptedEnvironment(VectorEnvironment):
    """Episodes of `length` steps; environment b's episodes are b steps longer. Reward 1 per step.

    The observation is `[seed, episode, step]`. Even-numbered environments terminate, odd-numbered ones are truncated.
    """

    name = "Scripted"
    observation_spec = specs.TensorSpec((3,))
    action_spec = specs.BoundedTensorSpec((), torch.int64, 0, 1)

    def __init__(self, num_envs, length=3):
        self.num_envs = num_envs
        self._lengths = torch.arange(num_envs) + length
        self._terminates = torch.arange(num_envs) % 2 == 0
        self.actions = []
        self.resets = []
        self.closed = False

    def reset(self, seed, out):
        self.resets.append(seed)
        self._seed = seed % 1000
        self._episode = torch.ones(self.num_envs)
        self._step = torch.zeros(self.num_envs)
        self._ended = torch.zeros(self.num_envs, dtype=torch.bool)
        self._write(torch.zeros(self.num_envs, dtype=torch.int64), torch.ones(self.num_envs, dtype=torch.bool), out)

    def step(self, action, out):
        self.actions.append(action.clone())
        begins = self._ended
        self._episode += begins
        self._step = torch.where(begins, 0, self._step + 1)
        self._ended = (self._step == self._lengths) & ~begins
        self._write(action, begins, out)

    def _write(self, action, begins, out):
        out.step_type.copy_(torch.where(begins, StepType.FIRST, torch.where(self._ended, StepType.LAST, StepType.MID)))
        out.reward.copy_(torch.where(begins, 0.0, 1.0))
        out.discount.copy_(torch.where(self._ended & self._terminates, 0.0, 1.0))
        seed = torch.full((self.num_envs,), float(self._seed))
        out.observation.copy_(torch.stack([seed, self._episode, self._step], dim=1))
        out.prev_action.copy_(torch.where(begins, 0, action))
        out.env_id.copy_(torch.arange(self.num_envs))

    def close(self):
        self.closed = True


class TinyInfo(NamedTuple):
    answered: torch.Tensor


class TinyAlgorithm(Algorithm):
    """Predicts the next reward from the observation; acts at random; stores the step that it answered."""

    def __init__(self, observation_spec, action_spec, future=1):
        super().__init__(observation_spec, action_spec)
        self.layer = torch.nn.Linear(observation_spec.shape[0], 1)
        self.future = future
        self.updates_seen = []
        self.iterations_seen = []

    def rows_needed(self):
        return RowsNeeded(future=self.future)

    def predict_step(self, time_step, state):
        return AlgStep(torch.zeros_like(time_step.prev_action), state)

    def rollout_step(self, time_step, state):
        action = torch.randint(0, 2, time_step.prev_action.shape)
        return AlgStep(action, state, TinyInfo(time_step.observation[:, -1].clone()))

    def preprocess_experience(self, root_inputs, rollout_info, batch_info):
        num_rows = root_inputs.reward.shape[1] - self.future
        inputs = root_inputs._replace(
            observation=root_inputs.observation[:, :num_rows],
            prev_action=root_inputs.prev_action[:, :num_rows],
            step_type=root_inputs.step_type[:, :num_rows],
            reward=root_inputs.reward[:, :num_rows],
            discount=root_inputs.discount[:, :num_rows],
            env_id=root_inputs.env_id[:, :num_rows],
        )
        return inputs, root_inputs.reward[:, 1 : num_rows + 1]

    def train_step(self, inputs, state, rollout_info):
        prediction = self.layer(inputs.observation).squeeze(-1)
        return AlgStep(prediction, state, (prediction, rollout_info))

    def calc_loss(self, info):
        prediction, target = info
        return LossInfo((prediction - target) ** 2, {"prediction": prediction.detach()})

    def after_update(self, progress):
        self.updates_seen.append(progress.updates)

    def after_train_iter(self, progress):
        self.iterations_seen.append(progress.iteration)
