from collections.abc import Callable

import pytest
import torch

from alfish import specs
from alfish.data_structures import Experience, TimeStep, time_step_spec

STEP_TYPES = {"F": 0, "M": 1, "L": 2}


@pytest.fixture(scope="session")
def experience_spec() -> Experience:
    action = specs.BoundedTensorSpec((), torch.int64, 0, 9)
    observation = {"image": specs.TensorSpec((2, 3), torch.uint8), "number": specs.TensorSpec((), torch.float64)}
    return Experience(time_step_spec(observation, action), action, {"value": specs.TensorSpec()})


@pytest.fixture(scope="session")
def make_window() -> Callable[[list[str], int], Experience]:
    """A function from one string of step types per environment, and the first row's position, to a window."""

    def make(step_types: list[str], start: int) -> Experience:
        step_type = torch.tensor([[STEP_TYPES[letter] for letter in row] for row in step_types], dtype=torch.uint8).T
        position = torch.arange(start, start + len(step_type))[:, None].expand(step_type.shape)
        env_id = torch.arange(len(step_types)).expand(step_type.shape)
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
