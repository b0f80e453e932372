"""Action values of a discrete choice: one MLP, or one for the state and one for what the actions differ by."""

from collections.abc import Sequence

import gin
import torch

from alfish import nest
from alfish.networks.activations import Activation
from alfish.networks.mlp import MLP, ObservationFlattener
from alfish.specs import BoundedTensorSpec, is_choice


@gin.configurable
class QNetwork(torch.nn.Module):
    """An MLP with one output for each action. What observations it reads is said at `ObservationFlattener`.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A.
        hidden_sizes: of the hidden layers; may be empty.
        activation: behind each of them.

    Raises:
        ValueError: the network cannot read the observation, or the action is not one discrete choice.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: BoundedTensorSpec,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: Activation = "relu",
    ):
        super().__init__()
        self._flatten = ObservationFlattener(observation_spec)
        self.value = MLP(self._flatten.size, hidden_sizes, _num_actions("QNetwork", action_spec), activation)

    def forward(self, observation: nest.Nest) -> torch.Tensor:
        """Observations with any leading axes -> Q, `[..., A]`."""
        return self.value(self._flatten(observation))


@gin.configurable
class DuellingQNetwork(torch.nn.Module):
    """A value of the state and an advantage of each action, behind layers that they share.

    Wang et al., "Dueling Network Architectures for Deep Reinforcement Learning" (2016), equation 9:

        Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a')

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A.
        hidden_sizes: of the layers that both share; may be empty, as behind an encoder that ends in features.
        stream_hidden_sizes: of the hidden layers that each has of its own; may be empty.
        activation: behind each hidden layer.

    Raises:
        ValueError: the network cannot read the observation, or the action is not one discrete choice.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: BoundedTensorSpec,
        hidden_sizes: Sequence[int] = (256,),
        stream_hidden_sizes: Sequence[int] = (256,),
        activation: Activation = "relu",
    ):
        super().__init__()
        self._flatten = ObservationFlattener(observation_spec)
        self.shared = MLP(self._flatten.size, hidden_sizes, None, activation)
        self.value = MLP(self.shared.output_size, stream_hidden_sizes, 1, activation)
        num_actions = _num_actions("DuellingQNetwork", action_spec)
        self.advantage = MLP(self.shared.output_size, stream_hidden_sizes, num_actions, activation)

    def forward(self, observation: nest.Nest) -> torch.Tensor:
        """Observations with any leading axes -> Q, `[..., A]`."""
        shared = self.shared(self._flatten(observation))
        advantage = self.advantage(shared)
        return self.value(shared) + (advantage - advantage.mean(dim=-1, keepdim=True))


def _num_actions(owner: str, action_spec: nest.Nest) -> int:
    if not is_choice(action_spec):
        raise ValueError(
            f"{owner} has an output for each action, and the action is {action_spec}; expected one discrete choice: "
            "for real numbers bind @CriticsNetwork as SACAlgorithm.critics, @ActorNetwork as SACAlgorithm.actor"
        )
    return action_spec.num_values
