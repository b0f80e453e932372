"""A task that only an algorithm with a memory can solve."""

import torch

from alfish import specs
from alfish.data_structures import StepType
from alfish.environments.environment import VectorEnvironment


class MemoryEnvironment(VectorEnvironment):
    """The first observation is -1 or 1, the two after it are 0; the action at the last of them must say which it was.

    The reward is 1 on arriving at the LAST row, the fourth, if the action before it was 0 for -1, or 1 for 1.
    """

    name = "Memory"
    observation_spec = specs.TensorSpec((1,))
    action_spec = specs.BoundedTensorSpec((), torch.int64, 0, 1)

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self._generator = torch.Generator()

    def reset(self, seed, out):
        self._generator.manual_seed(seed)
        self._step = torch.zeros(self.num_envs, dtype=torch.int64)
        self._cue = self._draw()
        self._write(torch.zeros(self.num_envs, dtype=torch.int64), torch.zeros(self.num_envs), out)

    def step(self, action, out):
        self._step = (self._step + 1) % 4
        reward = ((self._step == 3) & (action == self._cue)).float()
        self._cue = torch.where(self._step == 0, self._draw(), self._cue)
        self._write(action, reward, out)

    def _draw(self):
        return torch.randint(0, 2, (self.num_envs,), generator=self._generator)

    def _write(self, action, reward, out):
        first, last = self._step == 0, self._step == 3
        out.step_type.copy_(torch.where(first, StepType.FIRST, torch.where(last, StepType.LAST, StepType.MID)))
        out.reward.copy_(reward)
        out.discount.copy_(1.0 - last.float())
        out.observation.copy_(torch.where(first, 2.0 * self._cue - 1.0, 0.0).unsqueeze(-1))
        out.prev_action.copy_(torch.where(first, 0, action))
        out.env_id.copy_(torch.arange(self.num_envs))

    def close(self):
        pass
