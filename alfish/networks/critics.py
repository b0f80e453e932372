"""Several critics of the same actions, as one module: the values of a state and an action, or of all actions."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import gin
import torch
import torch.nn.functional

from alfish import nest
from alfish.checks import check_at_least
from alfish.networks.activations import ACTIVATIONS, Activation
from alfish.networks.dense_layers import relu_layers, takes_fast_path
from alfish.networks.mlp import MLP, ObservationFlattener, largest_relu_layer
from alfish.specs import BoundedTensorSpec, is_choice


@gin.configurable
class CriticsNetwork(torch.nn.Module):
    """C MLPs of the same shape with weights of their own (twin critics: Fujimoto et al. 2018, section 4.2).

    For floating-point actions each reads the observation and the action, in units of half the width of its box, and has
    one output; of one discrete choice each reads the observation alone and has an output for each of the A actions.
    What observations it reads is said at `ObservationFlattener`.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice, or a nest of floating-point BoundedTensorSpec.
        num_critics: C, at least 1.
        hidden_sizes: of the hidden layers; may be empty.
        activation: behind each of them.

    Attributes:
        num_critics: C.

    Raises:
        ValueError: the network cannot read the observation or the action, or a size is below 1.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        num_critics: int = 2,
        hidden_sizes: Sequence[int] = (256, 256),
        activation: Activation = "relu",
    ):
        super().__init__()
        check_at_least("CriticsNetwork.num_critics", num_critics, 1)
        self.num_critics = num_critics
        self._flatten = ObservationFlattener(observation_spec)
        self._is_discrete = is_choice(action_spec)
        if is_choice(action_spec):
            sizes, num_outputs = self._flatten.size, action_spec.num_values
        else:
            self._action = ActionVector(action_spec)
            sizes, num_outputs = self._flatten.size + self._action.size, 1
        self.values = StackedMLP(num_critics, sizes, hidden_sizes, num_outputs, activation)

    def forward(self, observation: nest.Nest, action: nest.Nest = ()) -> torch.Tensor:
        """Values of observations `[..., *]` with any leading axes.

        Args:
            observation: the features of rows.
            action: of the same rows, as the environment gets them; left out for discrete actions.

        Returns:
            `[..., C]`, or for discrete actions `[..., C, A]`.
        """
        inputs = self._flatten(observation)
        if self._is_discrete:
            return self.values(inputs)
        return self.values(torch.cat((inputs, self._action(action)), dim=-1)).squeeze(-1)


class ActionVector(torch.nn.Module):
    """Turns floating-point actions into one vector, each number in units of half the width of its box around 0.

    A number without bounds stays as it is. Differentiable.

    Args:
        action_spec: nest of floating-point BoundedTensorSpec.

    Attributes:
        size: D, numbers of an action.

    Raises:
        ValueError: a part of the action is something else.
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, action_spec: nest.Nest):
        super().__init__()
        bounds = []
        for path, spec in nest.leaves_with_paths(action_spec):
            if not isinstance(spec, BoundedTensorSpec) or spec.is_discrete:
                raise ValueError(
                    f"{path or 'the action'}: critics cannot read {spec}; expected one discrete choice, or a box of"
                    " real numbers or a nest of these: encode a mixed action as one of them in the environment"
                )
            bounds.append([bound.to(torch.float32).expand(spec.shape).flatten() for bound in spec.bounds()])
        if not bounds:
            raise ValueError(
                f"the action spec {action_spec} has no parts; expected at least one box of real numbers: give the "
                "environment an action space with a part"
            )
        low, high = (torch.cat(side) for side in zip(*bounds, strict=True))
        width = high - low
        is_box = width.isfinite() & (width > 0.0)
        half_width = torch.where(is_box, 0.5 * width, 1.0)
        middle = torch.where(is_box, 0.5 * low + 0.5 * high, 0.0)
        self._is_unit = bool((half_width == 1.0).all() and (middle == 0.0).all())
        self.register_buffer("scale", 1.0 / half_width, persistent=False)
        self.register_buffer("offset", -middle / half_width, persistent=False)
        self._num_axes = [len(spec.shape) for spec in nest.leaves(action_spec)]
        self.size = len(width)

    def forward(self, action: nest.Nest) -> torch.Tensor:
        """A nest of `[..., *shape]` -> `[..., D]`."""
        parts = [
            leaf if axes == 1 else leaf.flatten(-axes) if axes else leaf.unsqueeze(-1)
            for leaf, axes in zip(nest.leaves(action), self._num_axes, strict=True)
        ]
        vector = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)).to(torch.float32)
        return vector if self._is_unit else torch.addcmul(self.offset, vector, self.scale)


class StackedMLP(torch.nn.Module):
    """C MLPs with the weights of each layer in one tensor, initialised as C separate ones would be.

    On a GPU a layer of all of them is one batched product, because starting a kernel costs more than what it does; on a
    CPU they are taken one after the other, where a batched product is no faster.

    Args:
        count: C.
        input_size: size of the last axis of the input.
        hidden_sizes: of the hidden layers; may be empty.
        output_size: of the last layer.
        activation: behind each hidden layer.
    """

    def __init__(
        self, count: int, input_size: int, hidden_sizes: Sequence[int], output_size: int, activation: Activation
    ):
        super().__init__()
        MLP(input_size, hidden_sizes, output_size, activation)  # it says what is wrong with these
        self._activation = ACTIVATIONS[activation]
        sizes = [input_size, *hidden_sizes, output_size]
        self._largest_relu_layer = largest_relu_layer(sizes, activation)
        shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
        self.weights = torch.nn.ParameterList(_uniform((count, *shape), shape[1]) for shape in shapes)
        self.biases = torch.nn.ParameterList(_uniform((count, shape[0]), shape[1]) for shape in shapes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[..., input_size]` -> `[..., C, output_size]`."""
        if self._largest_relu_layer and takes_fast_path(inputs, self._largest_relu_layer):
            return relu_layers(inputs, [*self.weights], [*self.biases], len(self.weights) - 1)
        layers = list(zip(self.weights, self.biases, strict=True))
        if inputs.device.type == "cpu":
            separate = [zip(weight.unbind(), bias.unbind(), strict=True) for weight, bias in layers]
            return torch.stack([self._one(inputs, member) for member in zip(*separate, strict=True)], dim=-2)
        hidden = inputs.flatten(0, -2).expand(len(self.biases[0]), -1, -1)
        for weight, bias in layers[:-1]:
            hidden = self._activation(torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT))
        weight, bias = layers[-1]
        values = torch.baddbmm(bias.unsqueeze(1), hidden, weight.mT)
        return values.transpose(0, 1).unflatten(0, inputs.shape[:-1])

    def _one(self, inputs: torch.Tensor, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        for weight, bias in layers[:-1]:
            inputs = self._activation(torch.nn.functional.linear(inputs, weight, bias))
        return torch.nn.functional.linear(inputs, *layers[-1])


def _uniform(shape: tuple[int, ...], fan_in: int) -> torch.nn.Parameter:
    """As torch initialises the weights and the biases of a linear layer."""
    return torch.nn.Parameter(torch.empty(shape).uniform_(-1.0, 1.0) / math.sqrt(fan_in))


@contextlib.contextmanager
def frozen(module: torch.nn.Module) -> Iterator[None]:
    """A context in which a module passes gradients on to its inputs, while its parameters get none.

    They are switched off and on again, which any module allows and costs next to nothing: a copy with detached
    parameters would have to be called through `torch.func.functional_call`, which takes as long as a small network.
    """
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
