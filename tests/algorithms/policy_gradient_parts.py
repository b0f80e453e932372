"""What the tests of REINFORCE and the actor-critic share: networks that tests can foresee, windows, and the loss."""

import torch

from alfish import nest, specs
from alfish.data_structures import BatchInfo, StepType, time_step_spec
from alfish.networks.preprocessing import episode_begins
from alfish.specs import BoundedTensorSpec, TensorSpec

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST
OBSERVATION = TensorSpec((3,))
DISCRETE = BoundedTensorSpec((), torch.int64, 0, 2)
BOX = BoundedTensorSpec((2,), torch.float32, -0.1, (0.1, 0.3))
NESTED_OBSERVATION = {"board": TensorSpec((2, 2)), "legal": BoundedTensorSpec((3,), torch.int8, 0, 1)}
ACTION_SPECS = {
    "discrete": DISCRETE,
    "multi-discrete": BoundedTensorSpec((2,), torch.int32, (0, 1), (1, 3)),
    "box": BOX,
    "nested": {"arm": BOX, "grip": DISCRETE},
}


class UniformPolicy(torch.nn.Module):
    """The same logits for all three actions at first, and no value."""

    def __init__(self, observation_spec, action_spec):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(3))

    def forward(self, observation):
        return self.logits.expand(len(observation), 3)


class FirstElementCritic(UniformPolicy):
    """A value that is read off the observation, so that tests can say what it is."""

    def forward(self, observation):
        return super().forward(observation), observation[:, 0]


def rows_by_hand(step_type, reward, discount, value):
    """Rows `[1, T+1]` of which FirstElementCritic says `value`."""
    rows = specs.zeros(time_step_spec(OBSERVATION, DISCRETE), (1, len(reward)))
    rows.observation[0, :, 0] = torch.tensor(value)
    return rows._replace(
        step_type=torch.tensor([step_type], dtype=torch.uint8),
        reward=torch.tensor([reward]),
        discount=torch.tensor([discount]),
    )


def random_rows(algorithm, num_envs=4, length=8):
    """Rows `[B, T+1]` in which episodes of about four rows end either way; the first row is in mid-episode."""
    rows = specs.zeros(time_step_spec(algorithm.observation_spec, algorithm.action_spec), (num_envs, length + 1))
    is_last = torch.rand(num_envs, length + 1) < 0.25
    is_first = torch.cat((torch.zeros(num_envs, 1, dtype=torch.bool), is_last[:, :-1]), dim=1) & ~is_last
    for leaf in nest.leaves(rows.observation):
        leaf.normal_() if leaf.is_floating_point() else leaf.random_(0, 2)
    if isinstance(rows.observation, dict):
        rows.observation["legal"][..., 0] |= ~rows.observation["legal"].any(-1)
        rows.observation["legal"][is_last] = 0  # at the end nothing is legal
    return rows._replace(
        step_type=torch.where(is_last, LAST, torch.where(is_first, FIRST, MID)).to(torch.uint8),
        reward=torch.where(is_first, 0.0, torch.randn(num_envs, length + 1)),
        discount=1.0 - (is_last & (torch.rand(num_envs, length + 1) < 0.5)).float(),
    )


def collect(algorithm, rows):
    """Answers all rows but the last as the act-step loop does: the rollout info and a BatchInfo, `[B, T]`."""
    begins = episode_begins(rows.is_first(), rows.is_last())
    initial = algorithm.initial_state(len(begins))
    state = before = nest.map_structure(torch.randn_like, initial)  # in mid-episode
    steps = []
    with torch.inference_mode():
        for t in range(begins.shape[1] - 1):
            zeroed = begins[:, t].unsqueeze(1)
            state = nest.map_structure(lambda new, old, z=zeroed: torch.where(z, new, old), initial, state)
            step = algorithm.rollout_step(nest.map_structure(lambda leaf, t=t: leaf[:, t], rows), state)
            state = step.state
            steps.append((step.output, step.info))
    action, info = nest.map_structure(lambda *leaves: torch.stack(leaves, dim=1).clone(), *steps)
    position = torch.arange(begins.shape[1]).expand_as(begins)
    return info, BatchInfo(action, position, state=before)


def loss_of(algorithm, inputs, targets, state=()):
    """The loss `[B, T]` as the updater computes it: all rows at once, or sequences with a state."""
    if nest.leaves(state):
        return algorithm.calc_loss(algorithm.train_step(inputs, state, targets).info)
    outer = inputs.reward.shape
    inputs, targets = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, targets))
    step = algorithm.train_step(inputs, (), targets)
    return algorithm.calc_loss(nest.map_structure(lambda leaf: leaf.unflatten(0, outer), step.info))
