"""A policy and a value with nothing in common but the observation."""

import math
from collections.abc import Sequence

import gin
import torch

from alfish import nest
from alfish.networks.activations import Activation
from alfish.networks.mlp import MLP, ObservationFlattener
from alfish.ops.distributions import BoxDistribution, make_action_distribution


@gin.configurable
class ActorCriticNetwork(torch.nn.Module):
    """Two separate MLPs, one for the parameters of the action distribution and one for the value.

    The defaults are those of stable-baselines3's MlpPolicy: orthogonal weights with gain sqrt(2), 0.01 for the policy's
    last layer and 1 for the value's, biases of 0, and for normal distributions a logarithm of the standard deviation
    that does not depend on the observation. What observations it reads is said at `ObservationFlattener`.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: what `make_action_distribution` accepts.
        hidden_sizes: of both MLPs.
        activation: of both MLPs.
        initial_log_std: the logarithm of the standard deviation at the start, in the units of the action (of a
            `squashed_normal`, before it is squashed); without effect for discrete actions.
        box_distribution: the family for floating-point actions, as the algorithm has it.

    Raises:
        ValueError: the network cannot read the observation, or there is no distribution for the actions.
    """

    _order: torch.Tensor | None

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        hidden_sizes: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        initial_log_std: float = 0.0,
        box_distribution: BoxDistribution = "normal",
    ):
        super().__init__()
        distribution = make_action_distribution(action_spec, box_distribution)
        self._flatten = ObservationFlattener(observation_spec)
        self.log_std: torch.nn.Parameter | None = None
        free = distribution.log_std_indices
        num_outputs = distribution.num_parameters - len(free)
        if free:
            self.log_std = torch.nn.Parameter(torch.full((len(free),), float(initial_log_std)))
        # Where each parameter of the distribution lies in the layer's outputs followed by the free ones.
        is_free = torch.zeros(distribution.num_parameters, dtype=torch.bool).index_fill_(
            0, torch.tensor(free).long(), True
        )
        order = is_free.argsort(stable=True).argsort()
        in_order = bool((order.diff() == 1).all())
        self.register_buffer("_order", None if in_order else order, persistent=False)
        self.policy = MLP(self._flatten.size, hidden_sizes, num_outputs, activation, math.sqrt(2.0), 0.01)
        self.value = MLP(self._flatten.size, hidden_sizes, 1, activation, math.sqrt(2.0), 1.0)

    def forward(self, observation: nest.Nest) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations with any leading axes -> parameters of the action distribution `[..., P]` and values `[...]`."""
        features = self._flatten(observation)
        parameters = self.policy(features)
        if self.log_std is not None:
            log_std = self.log_std.expand(*parameters.shape[:-1], -1)
            parameters = torch.cat((parameters, log_std), dim=-1)
            if self._order is not None:
                parameters = parameters[..., self._order]
        return parameters, self.value(features).squeeze(-1)
