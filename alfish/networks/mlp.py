"""Multi-layer perceptrons, and how nested observations become the one vector that they read."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast, get_args

import torch
import torch.nn.functional

from alfish import nest
from alfish.networks.activations import ACTIVATIONS, Activation
from alfish.networks.byte_scale import byte_scale
from alfish.networks.dense_layers import relu_layers, takes_fast_path
from alfish.specs import BoundedTensorSpec, TensorSpec

_MAX_ONE_HOT = 4096


class MLP(torch.nn.Module):
    """Linear layers with an activation after each, and a last linear layer without one.

    Args:
        input_size: size of the last axis of the input.
        hidden_sizes: sizes of the hidden layers; may be empty.
        output_size: of the last layer; None leaves it out.
        activation: one of `relu`, `tanh`, `elu`, `gelu`, `silu`.
        hidden_gain: gain of the orthogonal initialisation of the hidden layers, with biases of 0; None keeps torch's
            own initialisation of linear layers, and so does `output_gain`.
        output_gain: likewise for the last layer.

    Raises:
        ValueError: a size is below 1, or the activation is not known.
    """

    def __init__(
        self,
        input_size: int,
        hidden_sizes: Sequence[int],
        output_size: int | None = None,
        activation: Activation = "relu",
        hidden_gain: float | None = None,
        output_gain: float | None = None,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; expected one of {get_args(Activation)}")
        sizes = [input_size, *hidden_sizes] + ([] if output_size is None else [output_size])
        if any(size < 1 for size in sizes):
            raise ValueError(f"the layers of an MLP have the sizes {sizes}; expected sizes of at least 1")
        self.input_size = input_size
        self.output_size = sizes[-1]
        self._activation = ACTIVATIONS[activation]
        self._largest_relu_layer = largest_relu_layer(sizes, activation)
        self.hidden = torch.nn.ModuleList(
            [
                _linear(size, next_size, hidden_gain)
                for size, next_size in zip([input_size, *hidden_sizes], hidden_sizes, strict=False)
            ]
        )
        self.output = None if output_size is None else _linear(sizes[-2], output_size, output_gain)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`[..., input_size]` -> `[..., output_size]`."""
        # Weights are used directly: calling each layer's module takes as long again as the product of a small batch.
        hidden = cast(Iterable[torch.nn.Linear], self.hidden)
        if self._largest_relu_layer and takes_fast_path(inputs, self._largest_relu_layer):
            layers = [*hidden] if self.output is None else [*hidden, self.output]
            weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
            return relu_layers(inputs, weights, biases, len(self.hidden))
        for layer in hidden:
            inputs = self._activation(torch.nn.functional.linear(inputs, layer.weight, layer.bias))
        if self.output is not None:
            inputs = torch.nn.functional.linear(inputs, self.output.weight, self.output.bias)
        return inputs


def largest_relu_layer(sizes: Sequence[int], activation: Activation) -> int:
    """The largest number of weights of the layers between `sizes`; 0 if they are not layers with rectifiers."""
    products = [size * next_size for size, next_size in zip(sizes[:-1], sizes[1:], strict=True)]
    return max(products, default=0) if activation == "relu" else 0


class ObservationFlattener:
    """Turns a nested observation into one float32 vector for each row.

    float32 leaves are flattened, other floats converted, uint8 leaves scaled to [0, 1] (`byte_scale`), booleans become
    0 and 1, and other integers with bounds become one-hot vectors (all zeros out of bounds). Leaves are concatenated in
    the order of `nest.leaves`. A single float32 vector is handed through without a copy.

    Args:
        observation_spec: nest of TensorSpec.

    Attributes:
        size: elements of the vector.

    Raises:
        ValueError: a leaf cannot be read; the message names its path.
    """

    def __init__(self, observation_spec: nest.Nest):
        self._leaves = [
            _plan(path or "the observation", spec) for path, spec in nest.leaves_with_paths(observation_spec)
        ]
        self.size = sum(leaf.size for leaf in self._leaves)
        if self.size == 0:
            raise ValueError(
                f"the observation spec {observation_spec} holds no elements; expected at least one: give the "
                "environment's observation an element, a constant if there is nothing to see"
            )
        spec = observation_spec
        self._is_vector = isinstance(spec, TensorSpec) and spec.dtype == torch.float32 and len(spec.shape) == 1

    def __call__(self, observation: nest.Nest) -> torch.Tensor:
        """A nest of `[N, ...]` -> `[N, size]`; any number of leading axes."""
        if self._is_vector:
            return observation
        parts = [_flat(leaf, plan) for leaf, plan in zip(nest.leaves(observation), self._leaves, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class _LeafPlan(NamedTuple):
    """How one leaf is read: elements of its vector, its axes, a factor, and the range of integers' one-hot vectors."""

    size: int
    num_axes: int
    scale: float
    one_hot: tuple[int, int] | None = None


def _linear(input_size: int, output_size: int, gain: float | None) -> torch.nn.Linear:
    layer = torch.nn.Linear(input_size, output_size)
    if gain is not None:
        torch.nn.init.orthogonal_(layer.weight, gain)
        torch.nn.init.zeros_(layer.bias)
    return layer


def _plan(path: str, spec: nest.Nest) -> _LeafPlan:
    if not isinstance(spec, TensorSpec) or spec.dtype.is_complex:
        raise ValueError(f"{path}: an MLP cannot read {spec!r}; expected a TensorSpec of real numbers")
    size, num_axes = math.prod(spec.shape), len(spec.shape)
    if spec.dtype.is_floating_point or spec.dtype in (torch.uint8, torch.bool):
        return _LeafPlan(size, num_axes, byte_scale(spec))
    if not isinstance(spec, BoundedTensorSpec):
        raise ValueError(
            f"{path}: an MLP reads integers as one-hot vectors and needs their bounds, but got {spec}; give a "
            "BoundedTensorSpec, or convert the observation to float32 in the environment"
        )
    minimum, maximum = spec.bounds()
    lowest, highest = int(minimum.min()), int(maximum.max())
    if not 0 <= highest - lowest < _MAX_ONE_HOT:
        raise ValueError(
            f"{path}: an MLP reads integers as one-hot vectors, and {spec} has {highest - lowest + 1} values; expected "
            f"1 to {_MAX_ONE_HOT}: convert the observation to float32 in the environment, or use another network"
        )
    return _LeafPlan(size * (highest - lowest + 1), num_axes + 1, 1.0, (lowest, highest))


def _flat(leaf: torch.Tensor, plan: _LeafPlan) -> torch.Tensor:
    if plan.one_hot is not None:
        lowest, highest = plan.one_hot
        leaf = leaf.unsqueeze(-1) == torch.arange(lowest, highest + 1, device=leaf.device)
    if plan.num_axes == 0:
        leaf = leaf.unsqueeze(-1)
    elif plan.num_axes > 1:
        leaf = leaf.flatten(-plan.num_axes)
    return leaf.to(torch.float32) if plan.scale == 1.0 else leaf * plan.scale
