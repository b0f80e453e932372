"""What stands between an observation and the heads of an algorithm: features, with or without memory."""

from typing import Protocol

import gin
import torch

from alfish import nest


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

    def unroll(self, observation: nest.Nest, state: nest.Nest, begins: torch.Tensor) -> nest.Nest:
        """Encodes a block.

        Args:
            observation: `[B, T, ...]`; without memory, any leading axes.
            state: `[B, ...]`, before the first row.
            begins: `[B, T]` bool, True where a row begins an episode: the state is zeroed before it.

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

    def unroll(self, observation: nest.Nest, state: nest.Nest, begins: torch.Tensor) -> nest.Nest:
        """See Encoder."""
        del state, begins
        return observation
