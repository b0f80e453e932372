"""What stands between an observation and the heads of an algorithm: features, with or without memory."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import gin
import torch

from alfish import nest
from alfish.data_structures import TimeStep
from alfish.networks.activations import Activation
from alfish.networks.mlp import MLP, ObservationFlattener
from alfish.networks.preprocessing import episode_begins
from alfish.specs import TensorSpec


class Encoder(Protocol):
    """Turns observations into features, which the networks behind it see as their observation.

    An encoder has two faces that must agree: `step` follows the rows as they are collected, `unroll` sees a block of
    stored rows at once, with gradient. It is a module, made with `observation_spec`.

    Attributes:
        output_spec: of the features.
    """

    output_spec: nest.Nest

    def initial_state(self, batch_size: int) -> nest.Nest:
        """The recurrent state of `batch_size` rows at the start of an episode; `()` for an encoder without memory."""

    def step(self, observation: nest.Nest, state: nest.Nest) -> tuple[nest.Nest, nest.Nest]:
        """Encodes one row of each environment.

        Args:
            observation: `[B, ...]`.
            state: before the row; already zeroed where the row begins an episode.

        Returns:
            The features `[B, ...]` and the next state.
        """

    def unroll(self, observation: nest.Nest, state: nest.Nest, begins: nest.Nest) -> nest.Nest:
        """Encodes a block.

        Args:
            observation: `[B, T, ...]`; without memory, any leading axes.
            state: `[B, ...]`, before the first row.
            begins: `[B, T]` bool, True where a row begins an episode: the state is zeroed before it. Without memory,
                `()`.

        Returns:
            The features, of the same leading axes.
        """


@gin.configurable
class IdentityEncoder(torch.nn.Module):
    """Hands the observation on: the features are the observation.

    Args:
        observation_spec: nest of TensorSpec.
    """

    def __init__(self, observation_spec: nest.Nest):
        super().__init__()
        self.output_spec = observation_spec

    def initial_state(self, batch_size: int) -> nest.Nest:
        """See Encoder."""
        del batch_size
        return ()

    def step(self, observation: nest.Nest, state: nest.Nest) -> tuple[nest.Nest, nest.Nest]:
        """See Encoder."""
        return observation, state

    def unroll(self, observation: nest.Nest, state: nest.Nest, begins: nest.Nest) -> nest.Nest:
        """See Encoder."""
        del state, begins
        return observation


@gin.configurable
class MLPEncoder(torch.nn.Module):
    """Linear layers, with an activation after each; orthogonal weights of gain sqrt(2), biases of 0.

    What observations it reads is said at `ObservationFlattener`.

    Args:
        observation_spec: nest of TensorSpec.
        hidden_sizes: of the layers, at least one; the last one is the number of features.
        activation: after each layer, the last one too.

    Raises:
        ValueError: there is no layer, or it cannot read the observation.
    """

    def __init__(
        self, observation_spec: nest.Nest, hidden_sizes: Sequence[int] = (64, 64), activation: Activation = "tanh"
    ):
        super().__init__()
        if not hidden_sizes:
            raise ValueError("MLPEncoder.hidden_sizes is empty; expected at least one size, or use @IdentityEncoder")
        self._flatten = ObservationFlattener(observation_spec)
        self._layers = MLP(self._flatten.size, hidden_sizes, None, activation, math.sqrt(2.0))
        self.output_spec = TensorSpec((self._layers.output_size,))

    def initial_state(self, batch_size: int) -> nest.Nest:
        """See Encoder."""
        del batch_size
        return ()

    def step(self, observation: nest.Nest, state: nest.Nest) -> tuple[nest.Nest, nest.Nest]:
        """See Encoder."""
        return self._layers(self._flatten(observation)), state

    def unroll(self, observation: nest.Nest, state: nest.Nest, begins: nest.Nest) -> nest.Nest:
        """See Encoder."""
        del state, begins
        return self._layers(self._flatten(observation))


def on_rows(network: Callable[..., nest.Nest], num_axes: int, *inputs: nest.Nest) -> nest.Nest:
    """What a network that need not know of time says of rows with any leading axes.

    Args:
        network: maps rows `[N, ...]` to a nest of tensors `[N, ...]`.
        num_axes: how many leading axes the rows have, at least 1.
        *inputs: nests of tensors, what it is called with, all with the same leading axes.

    Returns:
        Its nest, with these leading axes.
    """
    if num_axes == 1:
        return network(*inputs)
    outer = nest.leaves(inputs)[0].shape[:num_axes]
    returned = network(*nest.map_structure(lambda leaf: leaf.flatten(0, num_axes - 1), inputs))
    return nest.map_structure(lambda leaf: leaf.unflatten(0, outer), returned)


def unroll_rows(encoder: Encoder, rows: TimeStep, state: nest.Nest) -> nest.Nest:
    """The features of stored rows, with gradient: for `train_step` and `preprocess_experience`.

    Args:
        encoder: with or without memory.
        rows: with memory `[B, T]`; without, any leading axes. The observation may have fewer rows than the other
            fields, as in a block of which not all rows need it.
        state: `[B, ...]`, before the first row; `()` without memory.

    Returns:
        The features of all rows that have an observation.
    """
    if not nest.leaves(state):
        return encoder.unroll(rows.observation, (), ())
    num_rows = nest.leaves(rows.observation)[0].shape[1]
    begins = episode_begins(rows.is_first(), rows.is_last())
    return encoder.unroll(rows.observation, state, begins[:, :num_rows])
