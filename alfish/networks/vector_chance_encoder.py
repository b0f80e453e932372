"""The network that a stochastic model of vector observations has beside those of `muzero_vector_networks.py`."""

from collections.abc import Sequence

import gin
import torch

from alfish import nest
from alfish.networks.mlp import MLP, ObservationFlattener


@gin.configurable
class VectorChanceEncoder(torch.nn.Module):
    """From two observations in a row to a score for each chance outcome that may lie between them.

    Args:
        observation_spec: nest of TensorSpec; see ObservationFlattener.
        num_outcomes: C.
        hidden_sizes: sizes of the layers between; may be empty.

    Raises:
        ValueError: a size is smaller than 1, or the observation cannot be read as a vector.
    """

    def __init__(self, observation_spec: nest.Nest, num_outcomes: int, hidden_sizes: Sequence[int] = (128,)):
        super().__init__()
        self._flatten = ObservationFlattener(observation_spec)
        self._layers = MLP(2 * self._flatten.size, hidden_sizes, num_outcomes)

    def forward(self, observation: nest.Nest, next_observation: nest.Nest) -> torch.Tensor:
        """`[B, ...]` and `[B, ...]` to `[B, C]`."""
        return self._layers(torch.cat((self._flatten(observation), self._flatten(next_observation)), dim=-1))
