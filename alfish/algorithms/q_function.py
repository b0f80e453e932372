"""What DQN learns: an encoder and the action values behind it."""

from collections.abc import Callable

import torch

from alfish import nest
from alfish.data_structures import TimeStep
from alfish.networks.encoders import Encoder, on_rows, unroll_rows
from alfish.networks.network_checks import build_encoder, build_network, check_outputs
from alfish.networks.preprocessing import episode_begins, zeroed_state
from alfish.specs import is_choice


class QFunction(torch.nn.Module):
    """Q of stored rows.

    Args:
        encoder: a module; see Encoder.
        q_network: maps its features `[N, ...]` to Q, `[N, A]`.
    """

    def __init__(self, encoder: Encoder, q_network: torch.nn.Module):
        super().__init__()
        self.encoder = encoder
        self.q_network = q_network

    def forward(self, rows: TimeStep, state: nest.Nest) -> torch.Tensor:
        """Q, `[..., A]`, of rows as `unroll_rows` takes them."""
        return on_rows(self.q_network, rows.step_type.ndim, unroll_rows(self.encoder, rows, state))

    def state_after(self, rows: TimeStep, state: nest.Nest, num_rows: int) -> nest.Nest:
        """The recurrent state `[B, ...]` behind the first rows of a block.

        Args:
            rows: `[B, T]`.
            state: before the first row.
            num_rows: how many, below T.

        Returns:
            The state behind them; `unroll_rows` zeroes it where the next row begins an episode.
        """
        begins = episode_begins(rows.is_first(), rows.is_last())
        for t in range(num_rows):
            observation = nest.map_structure(lambda leaf, t=t: leaf[:, t], rows.observation)
            _, state = self.encoder.step(observation, zeroed_state(state, begins[:, t]))
        return state


def make_q_function(
    owner: str,
    observation_spec: nest.Nest,
    action_spec: nest.Nest,
    q_network: Callable[..., torch.nn.Module],
    encoder: Callable[..., Encoder],
) -> QFunction:
    """Builds both parts and tries them.

    Args:
        owner: the name of the algorithm, for messages.
        observation_spec: for the encoder.
        action_spec: one discrete choice of A.
        q_network: makes the network from the encoder's `output_spec` and `action_spec`.
        encoder: makes the encoder.

    Raises:
        ValueError: the actions are not one discrete choice, a part cannot be built, or they do not fit together.
    """
    if not is_choice(action_spec):
        raise ValueError(
            f"{owner} compares the values of all actions, and the action is {action_spec}; expected one discrete choice"
            " (a BoundedTensorSpec of integers with the shape ()): take an algorithm with a policy, such as "
            "@PPOAlgorithm, or @SACAlgorithm for real numbers"
        )
    built = build_encoder(f"{owner}.encoder", encoder, observation_spec)
    network = build_network(
        f"{owner}.q_network", q_network, observation_spec=built.output_spec, action_spec=action_spec
    )
    check_outputs(f"{owner}.q_network", network, (built.output_spec,), {"Q": (action_spec.num_values,)})
    return QFunction(built, network)
