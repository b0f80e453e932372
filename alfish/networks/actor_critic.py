"""A policy and a value with nothing in common but the observation."""

import math
from collections.abc import Sequence

import gin
import torch

from alfish import nest
from alfish.networks.mlp import MLP, Activation, ObservationFlattener
from alfish.ops.distributions import DiagonalNormal, make_action_distribution


@gin.configurable
class ActorCriticNetwork(torch.nn.Module):
    """Two separate MLPs, one for the parameters of the action distribution and one for the value.

    The defaults are those of stable-baselines3's MlpPolicy: orthogonal weights with gain sqrt(2), 0.01 for the policy's
    last layer and 1 for the value's, biases of 0, and for floating-point actions a logarithm of the standard deviation
    that does not depend on the observation. What observations it reads is said at `ObservationFlattener`.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one BoundedTensorSpec that `make_action_distribution` accepts.
        hidden_sizes: of both MLPs.
        activation: of both MLPs.
        initial_log_std: the logarithm of the standard deviation at the start, in the units of the action; without
            effect for discrete actions.

    Raises:
        ValueError: the network cannot read the observation, or there is no distribution for the actions.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        initial_log_std: float = 0.0,
    ):
        super().__init__()
        distribution = make_action_distribution(action_spec)
        self._flatten = ObservationFlattener(observation_spec)
        self.log_std: torch.nn.Parameter | None = None
        num_outputs = distribution.num_parameters
        if isinstance(distribution, DiagonalNormal):
            num_outputs = distribution.num_dims
            self.log_std = torch.nn.Parameter(torch.full((num_outputs,), float(initial_log_std)))
        self.policy = MLP(self._flatten.size, hidden_sizes, num_outputs, activation, math.sqrt(2.0), 0.01)
        self.value = MLP(self._flatten.size, hidden_sizes, 1, activation, math.sqrt(2.0), 1.0)

    def forward(self, observation: nest.Nest) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, ...]` observations -> parameters of the action distribution `[N, P]` and values `[N]`."""
        features = self._flatten(observation)
        parameters = self.policy(features)
        if self.log_std is not None:
            parameters = torch.cat((parameters, self.log_std.expand_as(parameters)), dim=-1)
        return parameters, self.value(features).squeeze(-1)
