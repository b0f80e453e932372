"""An encoder with a memory."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.networks.encoders import Encoder, IdentityEncoder
from alfish.networks.mlp import ObservationFlattener
from alfish.networks.network_checks import build_encoder
from alfish.specs import TensorSpec

Cell = Literal["gru", "lstm"]


class RecurrentState(NamedTuple):
    """The memory of B rows, `[B, state_size]`.

    Attributes:
        hidden: the features of the row before; zeros at the start of an episode.
        cell: of an LSTM, likewise; `()` of a GRU.
    """

    hidden: torch.Tensor
    cell: nest.Nest = ()


@gin.configurable
class RecurrentEncoder(torch.nn.Module):
    """A GRU (Cho et al. 2014) or an LSTM (Hochreiter and Schmidhuber 1997) behind another encoder.

    Its features are the hidden state after the row. Weights are orthogonal, biases 0. `step`, row by row, and `unroll`,
    a block at once, give the same features; across the rows of a block the gradient goes back to the block's first row,
    and not over the beginning of an episode.

    Args:
        observation_spec: nest of TensorSpec.
        encoder: what stands before the memory, made with `observation_spec`; without memory of its own. Its features
            are read as one vector, see `ObservationFlattener`.
        cell: `"gru"` or `"lstm"`.
        state_size: of the hidden state, at least 1: the number of features.

    Raises:
        ValueError: an argument is not one of these, the encoder before it has a memory, or its features cannot be read.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        encoder: Callable[..., Encoder] = IdentityEncoder,
        cell: Cell = "gru",
        state_size: int = 64,
    ):
        super().__init__()
        check_at_least("RecurrentEncoder.state_size", state_size, 1)
        if cell not in get_args(Cell):
            raise ValueError(f"RecurrentEncoder.cell is {cell!r}; expected one of {get_args(Cell)}")
        self.encoder = _build_without_memory(encoder, observation_spec)
        self._flatten = ObservationFlattener(self.encoder.output_spec)
        self._is_lstm = cell == "lstm"
        # As torch's cells lay them out: the gates one below the other.
        num_rows = (4 if self._is_lstm else 3) * state_size
        self.weight_input = torch.nn.Parameter(torch.empty(num_rows, self._flatten.size))
        self.weight_hidden = torch.nn.Parameter(torch.empty(num_rows, state_size))
        self.bias_input = torch.nn.Parameter(torch.zeros(num_rows))
        self.bias_hidden = torch.nn.Parameter(torch.zeros(num_rows))
        for weight in (self.weight_input, self.weight_hidden):
            torch.nn.init.orthogonal_(weight)
        self._state_size = state_size
        self.output_spec = TensorSpec((state_size,))

    def initial_state(self, batch_size: int) -> RecurrentState:
        """See Encoder: zeros."""
        zeros = torch.zeros(batch_size, self._state_size)
        return RecurrentState(zeros, zeros.clone() if self._is_lstm else ())

    def step(self, observation: nest.Nest, state: RecurrentState) -> tuple[torch.Tensor, RecurrentState]:
        """See Encoder."""
        features, _ = self.encoder.step(observation, ())
        state = self._next(self._flatten(features), state)
        return state.hidden, state

    def unroll(self, observation: nest.Nest, state: RecurrentState, begins: torch.Tensor) -> torch.Tensor:
        """See Encoder."""
        inputs = self._flatten(self.encoder.unroll(observation, (), ()))
        goes_on = begins.logical_not().unsqueeze(-1)
        hidden = []
        # Step by step, although torch's layers could follow the pieces between beginnings at once: on the CPU that took
        # up to twice as long, and cutting them takes a wait for the GPU.
        for row, keeps in zip(inputs.unbind(1), goes_on.unbind(1), strict=True):
            state = self._next(row, nest.map_structure(lambda leaf, keeps=keeps: torch.where(keeps, leaf, 0.0), state))
            hidden.append(state.hidden)
        return torch.stack(hidden, dim=1)

    def _next(self, inputs: torch.Tensor, state: RecurrentState) -> RecurrentState:
        weights = (self.weight_input, self.weight_hidden, self.bias_input, self.bias_hidden)
        if self._is_lstm:
            return RecurrentState(*torch.lstm_cell(inputs, (state.hidden, state.cell), *weights))
        return RecurrentState(torch.gru_cell(inputs, state.hidden, *weights))


def _build_without_memory(make: Callable[..., Encoder], observation_spec: nest.Nest) -> Encoder:
    # Bound to itself, it would make one inside of the other for ever.
    is_recurrent = isinstance(make, type) and issubclass(make, RecurrentEncoder)
    if not is_recurrent:
        encoder = build_encoder("RecurrentEncoder.encoder", make, observation_spec)
        if not nest.leaves(encoder.initial_state(1)):
            return encoder
    name = RecurrentEncoder.__name__ if is_recurrent else type(encoder).__name__
    raise ValueError(
        f"RecurrentEncoder.encoder makes a {name}, which has a memory of its own; expected one without, such as "
        "@MLPEncoder or @ImageEncoder"
    )
