"""What tests of SAC share: networks whose values can be said by hand, and the updater's way through the hooks."""

import torch

from alfish import nest
from alfish.algorithms.sac_algorithm import SACAlgorithm
from alfish.data_structures import BatchInfo, StepType, TimeStep
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import BoundedTensorSpec, TensorSpec

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST
OBSERVATION = TensorSpec((2,))
BOX = BoundedTensorSpec((1,), torch.float32, -2.0, 2.0)
CHOICE = BoundedTensorSpec((), torch.int64, 1, 2)
NO_ENTROPY = 1.0e-30
"""A temperature that leaves nothing of the entropy term."""


class FixedActor(torch.nn.Module):
    """The same parameters for all observations: of a box the mean atanh(1/2), no deviation; a choice 1 : 3."""

    def __init__(self, observation_spec, action_spec, box_distribution=None):
        super().__init__()
        values = torch.tensor([1.0, 3.0]).log() if box_distribution is None else torch.tensor([0.5493061, -20.0])
        self.parameters_of_all = torch.nn.Parameter(values)

    def forward(self, observation):
        leaf = nest.leaves(observation)[-1]
        return self.parameters_of_all.expand(*leaf.shape[:-1], 2)


class ReadOffCritics(torch.nn.Module):
    """Of a box factor (observation[c] + action), c = 0, 1; of a choice factor (observation[a] + c)."""

    num_critics = 2

    def __init__(self, observation_spec, action_spec):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, observation, action=None):
        values = observation["q"] if isinstance(observation, dict) else observation
        if action is not None:
            return (values + action) * self.factor
        return (values.unsqueeze(-2) + torch.tensor([[0.0], [1.0]])) * self.factor


def make_sac(action_spec=BOX, observation_spec=OBSERVATION, by_hand=True, target_factor=1.0, **arguments):
    """A SAC with defaults for what must be given; `by_hand` on the networks above."""
    given = {"target_update": TargetUpdate(tau=0.5)}
    if by_hand:
        given |= {"actor": FixedActor, "critics": ReadOffCritics, "initial_temperature": NO_ENTROPY}
    algorithm = SACAlgorithm(observation_spec, action_spec, **(given | arguments))
    if by_hand:
        algorithm.target_side.critics.factor.fill_(target_factor)
    return algorithm


def block(step_type, observation, reward=None, discount=None, action=None, position=None, state=()):
    """Rows and BatchInfo of one segment from lists; rewards are 0, discounts 1 unless given."""
    length = len(step_type)
    action = torch.zeros(1, length, 1) if action is None else action
    rows = TimeStep(
        step_type=torch.tensor([step_type], dtype=torch.uint8),
        reward=torch.tensor([reward or [0.0] * length]),
        discount=torch.tensor([discount or [1.0] * length]),
        observation=observation,
        prev_action=torch.zeros_like(action),
        env_id=torch.zeros(1, length, dtype=torch.int32),
    )
    return rows, BatchInfo(action, torch.tensor([position or list(range(7, 7 + length))]), state=state)


def trained(algorithm, rows, batch_info):
    """The info of `train_step` `[B, T]`, as the updater gets it."""
    inputs, info = algorithm.preprocess_experience(rows, (), batch_info)
    if nest.leaves(batch_info.state):
        return algorithm.train_step(inputs, batch_info.state, info).info
    outer = tuple(inputs.reward.shape)
    flat_inputs, flat_info = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, info))
    step = algorithm.train_step(flat_inputs, (), flat_info)
    return nest.map_structure(lambda leaf: leaf.unflatten(0, outer), step.info)


def loss_of(algorithm, rows, batch_info):
    """The LossInfo of a block, as the updater computes it."""
    return algorithm.calc_loss(trained(algorithm, rows, batch_info))
