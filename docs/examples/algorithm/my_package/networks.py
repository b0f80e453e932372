"""A network of my own."""

import gin
import torch

from alfish import nest
from alfish.networks.mlp import ObservationFlattener


@gin.configurable
class TwoHeads(torch.nn.Module):
    """One hidden layer with two outputs: the parameters of a distribution of actions, and a value.

    Args:
        observation_spec: nest of TensorSpec.
        num_parameters: P, what the distribution of the actions needs.
        hidden_size: of the layer.
    """

    def __init__(self, observation_spec: nest.Nest, num_parameters: int, hidden_size: int = 128):
        super().__init__()
        self._flatten = ObservationFlattener(observation_spec)
        self.hidden = torch.nn.Linear(self._flatten.size, hidden_size)
        self.policy = torch.nn.Linear(hidden_size, num_parameters)
        self.value = torch.nn.Linear(hidden_size, 1)

    def forward(self, observation: nest.Nest) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations with any leading axes to parameters `[..., P]` and values `[...]`."""
        features = torch.nn.functional.silu(self.hidden(self._flatten(observation)))
        return self.policy(features), self.value(features).squeeze(-1)
