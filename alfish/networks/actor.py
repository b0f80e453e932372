"""A policy alone, for algorithms whose values are those of critics."""

from collections.abc import Sequence

import gin
import torch

from alfish import nest
from alfish.networks.activations import Activation
from alfish.networks.mlp import MLP, ObservationFlattener
from alfish.ops.distributions import BoxDistribution, make_action_distribution


@gin.configurable
class ActorNetwork(torch.nn.Module):
    """An MLP from observations to the parameters of the action distribution. What it reads: `ObservationFlattener`.

    The defaults are those of soft actor-critic (Haarnoja et al. 2018b, appendix D): two hidden layers of 256.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: nest of BoundedTensorSpec.
        hidden_sizes: of the hidden layers; may be empty, as behind an encoder that ends in features.
        activation: behind each of them.
        box_distribution: the family of floating-point actions, which must be that of the algorithm; it says so.

    Raises:
        ValueError: the network cannot read the observation, or there is no distribution for the actions.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: Activation = "relu",
        box_distribution: BoxDistribution = "squashed_normal",
    ):
        super().__init__()
        self._flatten = ObservationFlattener(observation_spec)
        num_outputs = make_action_distribution(action_spec, box_distribution).num_parameters
        self.policy = MLP(self._flatten.size, hidden_sizes, num_outputs, activation)

    def forward(self, observation: nest.Nest) -> torch.Tensor:
        """Observations with any leading axes -> parameters of the action distribution `[..., P]`."""
        return self.policy(self._flatten(observation))
