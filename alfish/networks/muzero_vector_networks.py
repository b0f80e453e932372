"""Encoding, dynamics and prediction networks of a MuZero model for vector observations.

Few wide layers, and heads that share one matrix product: a search calls dynamics and prediction thousands of times a
second with a handful of rows, where each call of an operation costs more than its arithmetic.
"""

from collections.abc import Sequence

import gin
import torch

from alfish import nest
from alfish.networks.latents import normalize_latent
from alfish.networks.mlp import MLP, ObservationFlattener


def zero_outputs(layer: torch.nn.Linear | None, first: int = 0) -> None:
    """Sets the weights and biases of a layer's outputs from number `first` on to 0.

    With zero heads the policy is uniform and the value 0 at first, instead of noise that a search would amplify.
    """
    assert layer is not None
    with torch.no_grad():
        layer.weight[first:].zero_()
        layer.bias[first:].zero_()


@gin.configurable
class VectorEncoding(torch.nn.Module):
    """From an observation to a latent vector in [0, 1].

    Args:
        observation_spec: nest of TensorSpec; see ObservationFlattener.
        latent_size: elements of the latent.
        hidden_sizes: sizes of the layers between; may be empty.

    Attributes:
        latent_shape: `(latent_size,)`.

    Raises:
        ValueError: a size is smaller than 1, or the observation cannot be read as a vector.
    """

    def __init__(self, observation_spec: nest.Nest, latent_size: int = 64, hidden_sizes: Sequence[int] = (128,)):
        super().__init__()
        self._flatten = ObservationFlattener(observation_spec)
        self._layers = MLP(self._flatten.size, hidden_sizes, latent_size)
        self.latent_shape = (latent_size,)

    def forward(self, observation: nest.Nest) -> torch.Tensor:
        """`[B, ...]` observation to `[B, latent_size]`."""
        return normalize_latent(self._layers(self._flatten(observation)))


@gin.configurable
class VectorDynamics(torch.nn.Module):
    """From a latent vector and an action to the next latent and the reward's logits.

    The latent is changed by a residual step. The first layer of `[latent, one-hot action]` is computed as a matrix
    product plus a row of an embedding: the same function, without making the one-hot vector. An action that is a vector
    is multiplied by the same matrix.

    Args:
        latent_shape: `(latent_size,)`.
        num_actions: A, or the size of an action's vector.
        num_reward_outputs: logits of the reward; 0 for none.
        hidden_sizes: sizes of the layers between, at least one.

    Raises:
        ValueError: a size is smaller than 1, or there is no hidden layer.
    """

    reads_action_vectors = True

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        num_actions: int,
        num_reward_outputs: int,
        hidden_sizes: Sequence[int] = (128, 128),
    ):
        super().__init__()
        if not hidden_sizes:
            raise ValueError("VectorDynamics.hidden_sizes is empty; give it at least one size")
        (latent_size,) = latent_shape
        self._head_sizes = [latent_size, num_reward_outputs]
        self._from_latent = torch.nn.Linear(latent_size, hidden_sizes[0])
        self._from_action = torch.nn.Embedding(num_actions, hidden_sizes[0])
        torch.nn.init.normal_(self._from_action.weight, std=latent_size**-0.5)
        self._layers = MLP(hidden_sizes[0], hidden_sizes[1:], sum(self._head_sizes))
        zero_outputs(self._layers.output, first=latent_size)

    def forward(self, latent: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[B, latent_size]` and an action to the next latent, alike, and reward logits `[B, S]`.

        The action is `[B]` int64 in `0 … A−1`, or a vector `[B, A]` float.
        """
        # Weights are used directly, as in MLP.
        hidden = torch.nn.functional.linear(latent, self._from_latent.weight, self._from_latent.bias)
        if action.is_floating_point():
            hidden = torch.addmm(hidden, action, self._from_action.weight)
        else:
            hidden = hidden + torch.nn.functional.embedding(action, self._from_action.weight)
        hidden = torch.relu_(hidden)
        change, reward = self._layers(hidden).split(self._head_sizes, dim=1)
        return normalize_latent(latent + change), reward


@gin.configurable
class VectorPrediction(torch.nn.Module):
    """From a latent vector to the logits of all heads, which share their hidden layers.

    Args:
        latent_shape: `(latent_size,)`.
        head_sizes: outputs of each head.
        hidden_sizes: sizes of the shared layers.

    Raises:
        ValueError: a size is smaller than 1.
    """

    def __init__(self, latent_shape: tuple[int, ...], head_sizes: Sequence[int], hidden_sizes: Sequence[int] = (128,)):
        super().__init__()
        self._head_sizes = list(head_sizes)
        self._layers = MLP(latent_shape[0], hidden_sizes, sum(head_sizes))
        zero_outputs(self._layers.output)

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`[B, latent_size]` to `[B, size]` of each head."""
        return self._layers(latent).split(self._head_sizes, dim=1)
