from collections.abc import Callable

import numpy as np
import pytest
import torch

from alfish import specs
from alfish.data_structures import Experience, TimeStep, time_step_spec
from alfish.experience_replayers.samplers import Drawn, SampledRows

STEP_TYPES = {"F": 0, "M": 1, "L": 2}


class GivenRows:
    """A sampler that draws what a test puts into `position`, `env_id` and `weight`, and remembers what it is told."""

    draws_by_priority = False

    def __init__(self, position=(), env_id=None, weight=None):
        self.position, self.env_id, self.weight = position, env_id, weight
        self.allowed, self.fraction, self.updated, self.reserved = None, None, None, None

    def reserve(self, num_envs, length):
        self.reserved = (num_envs, length)

    def predicted_bytes(self, num_envs, length):
        return 0

    def allow(self, first, last):
        self.allowed = (first.tolist(), last.tolist())

    def sample(self, batch_size, generator, fraction):
        self.fraction = fraction
        env_id = np.zeros(len(self.position), np.int64) if self.env_id is None else np.array(self.env_id)
        return Drawn(SampledRows(np.array(self.position), env_id), self.weight)

    def probability(self, rows):
        return np.ones(len(rows.position))

    def importance_weight(self, probability, fraction):
        return self.weight

    def update_priorities(self, rows, priority):
        self.updated = (rows, priority)

    def state_dict(self):
        return {"sampler": "GivenRows"}

    def check_state_dict(self, state):
        assert state == self.state_dict()

    def load_state_dict(self, state):
        assert state == self.state_dict()


@pytest.fixture(scope="session")
def given_rows() -> type[GivenRows]:
    return GivenRows


@pytest.fixture(scope="session")
def experience_spec() -> Experience:
    action = specs.BoundedTensorSpec((), torch.int64, 0, 9)
    observation = {"image": specs.TensorSpec((2, 3), torch.uint8), "number": specs.TensorSpec((), torch.float64)}
    return Experience(time_step_spec(observation, action), action, {"value": specs.TensorSpec()})


@pytest.fixture(scope="session")
def make_window() -> Callable[..., Experience]:
    """A function from one string of step types per environment, and their first rows' positions, to a window."""

    def make(step_types: list[str], start: int | list[int], first_env: int = 0) -> Experience:
        step_type = torch.tensor([[STEP_TYPES[letter] for letter in row] for row in step_types], dtype=torch.uint8).T
        position = (torch.arange(len(step_type))[:, None] + torch.tensor(start)).expand(step_type.shape)
        env_id = torch.arange(first_env, first_env + len(step_types)).expand(step_type.shape)
        time_step = TimeStep(
            step_type=step_type,
            reward=position + 0.25 * env_id,
            discount=torch.where(step_type == 2, 0.0, 1.0),
            observation={
                "image": (position + 10 * env_id)[..., None, None].expand(-1, -1, 2, 3).to(torch.uint8),
                "number": position.double() - env_id,
            },
            prev_action=position + 100 * env_id - 1,
            env_id=env_id.int(),
        )
        return Experience(time_step, position + 100 * env_id, {"value": -1.0 * position - 1000 * env_id})

    return make
