"""The recurrent network of the value prefix (Ye et al. 2021, EfficientZero, section 4.2)."""

from collections.abc import Sequence

import gin
import torch

from alfish.checks import check_at_least
from alfish.networks.mlp import MLP
from alfish.networks.muzero_vector_networks import zero_outputs


@gin.configurable
class RecurrentValuePrefix(torch.nn.Module):
    """From the latent after an action and a recurrent state to the value prefix's logits: an LSTM and an MLP.

    A latent image passes a 1 x 1 convolution first. EfficientZero (appendix A.1) has an LSTM of 512 and a hidden layer
    of 32, with batch normalisation behind the LSTM too, which is left out here.

    Args:
        latent_shape: `(latent_size,)`, or `(C, H, W)`.
        num_outputs: logits of the prefix, S.
        state_size: of the LSTM.
        hidden_sizes: sizes of the layers behind the LSTM; may be empty.
        channels: of the convolution's output. Read for latent images only.

    Raises:
        ValueError: a size is smaller than 1, or the latent is neither a vector nor an image.
    """

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        num_outputs: int,
        state_size: int = 64,
        hidden_sizes: Sequence[int] = (32,),
        channels: int = 16,
    ):
        super().__init__()
        check_at_least("RecurrentValuePrefix.state_size", state_size, 1)
        check_at_least("RecurrentValuePrefix.channels", channels, 1)
        if len(latent_shape) == 1:
            self._reduce: torch.nn.Module = torch.nn.Identity()
            input_size = latent_shape[0]
        elif len(latent_shape) == 3:
            self._reduce = torch.nn.Sequential(
                torch.nn.Conv2d(latent_shape[0], channels, kernel_size=1, bias=False),
                torch.nn.BatchNorm2d(channels),
                torch.nn.ReLU(inplace=True),
                torch.nn.Flatten(),
            )
            input_size = channels * latent_shape[1] * latent_shape[2]
        else:
            raise ValueError(
                f"RecurrentValuePrefix reads latents (size,) or (C, H, W), not of the shape {latent_shape}"
            )
        self._state_size = state_size
        self._cell = torch.nn.LSTMCell(input_size, state_size)
        self._head = MLP(state_size, hidden_sizes, num_outputs)
        zero_outputs(self._head.output)

    def initial_state(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The state `([B, state_size], [B, state_size])` of the beginning and after a reset: zeros."""
        zeros = latent.new_zeros((len(latent), self._state_size))
        return zeros, zeros

    def forward(
        self, latent: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """`[B, *latent_shape]` and a state to logits `[B, S]` and the next state."""
        state = self._cell(self._reduce(latent), state)
        return self._head(state[0]), state
