"""What tests of DQN share: a network whose values can be said by hand, and the updater's way through the hooks."""

import torch

from alfish import nest
from alfish.algorithms.dqn_algorithm import DQNAlgorithm
from alfish.data_structures import BatchInfo, StepType, TimeStep
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import BoundedTensorSpec, TensorSpec

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST
OBSERVATION = TensorSpec((2,))
ACTION = BoundedTensorSpec((), torch.int64, 0, 1)


class ReadOffNetwork(torch.nn.Module):
    """Q is the observation, or its entry "q", times a factor."""

    def __init__(self, observation_spec, action_spec):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, observation):
        return (observation["q"] if isinstance(observation, dict) else observation) * self.factor


def make_dqn(observation_spec=OBSERVATION, action_spec=ACTION, target_factor=None, **arguments):
    """A DQN with defaults for what must be given; with `target_factor` on ReadOffNetworks."""
    given = {"epsilon": 0.1, "target_update": TargetUpdate()}
    if target_factor is not None:
        given["q_network"] = ReadOffNetwork
    algorithm = DQNAlgorithm(observation_spec, action_spec, **(given | arguments))
    if target_factor is not None:
        algorithm.target.q_network.factor.fill_(target_factor)
    return algorithm


def block(step_type, observation, reward=None, discount=None, action=None, position=None, state=()):
    """Rows and BatchInfo of one segment from lists; rewards are 0, discounts 1, actions 0 unless given."""
    length = len(step_type)
    rows = TimeStep(
        step_type=torch.tensor([step_type], dtype=torch.uint8),
        reward=torch.tensor([reward or [0.0] * length]),
        discount=torch.tensor([discount or [1.0] * length]),
        observation=observation,
        prev_action=torch.zeros(1, length, dtype=torch.int64),
        env_id=torch.zeros(1, length, dtype=torch.int32),
    )
    action = torch.tensor([action or [0] * length])
    return rows, BatchInfo(action, torch.tensor([position or list(range(7, 7 + length))]), state=state)


def loss_of(algorithm, rows, batch_info):
    """The LossInfo of a block, as the updater computes it."""
    inputs, info = algorithm.preprocess_experience(rows, (), batch_info)
    if nest.leaves(batch_info.state):
        return algorithm.calc_loss(algorithm.train_step(inputs, batch_info.state, info).info)
    outer = tuple(inputs.reward.shape)
    flat_inputs, flat_info = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, info))
    step = algorithm.train_step(flat_inputs, (), flat_info)
    return algorithm.calc_loss(nest.map_structure(lambda leaf: leaf.unflatten(0, outer), step.info))
