"""Linear layers with rectifiers between them, by the faster of two libraries where torch takes the slow one."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional

_LARGE = 2**22
"""Multiplications of one product from which on it is worth while."""


def takes_fast_path(inputs: torch.Tensor, largest_layer: int) -> bool:
    """Whether `relu_layers` is faster than torch's own products: for many rows, on some processors.

    On x86 torch hands float32 products to MKL, which leaves the AVX-512 units of processors of other makers than Intel
    unused. oneDNN, which torch brings along, uses them and is nearly twice as fast there. Sums are taken in another
    order: results differ in their last bits, as they do between machines, but always in the same way on one machine.

    Args:
        inputs: `[..., in]`.
        largest_layer: the largest number of weights of a layer, over the size of the input.
    """
    return (
        inputs.numel() * largest_layer >= _LARGE * inputs.shape[-1]
        and inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and _onednn_is_faster()
        # Under autocast torch's own products choose the precision; here it would be mixed.
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def relu_layers(
    inputs: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor], num_hidden: int
) -> torch.Tensor:
    """Linear layers, the first ones with a rectifier behind; gradients of first order. See `takes_fast_path`.

    Args:
        inputs: `[..., in]` float32.
        weights: of each layer `[out, in]`; or `[C, out, in]`, of C stacks that read the same input.
        biases: `[out]`, or `[C, out]`.
        num_hidden: how many layers have a rectifier.

    Returns:
        `[..., out]`, or `[..., C, out]`.
    """
    # Rows that lie apart, as a slice of a block does, would be taken by a path that is fifty times as slow.
    rows = inputs.flatten(0, -2).contiguous()
    if torch.is_grad_enabled():
        outputs: torch.Tensor = _ReluLayers.apply(rows, num_hidden, *weights, *biases)
    else:
        outputs, _ = _forward(rows, num_hidden, (*weights, *biases))
    return outputs.unflatten(0, inputs.shape[:-1])


class _ReluLayers(torch.autograd.Function):
    """The layers and their gradients, without a node of the graph for each; small products are torch's own."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, num_hidden: int, *parameters: torch.Tensor) -> torch.Tensor:
        outputs, seen = _forward(inputs, num_hidden, parameters)
        ctx.num_hidden = num_hidden
        ctx.num_layers = len(parameters) // 2
        ctx.save_for_backward(*parameters[: ctx.num_layers], inputs, *seen)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        num_layers, num_hidden = ctx.num_layers, ctx.num_hidden
        weights, (inputs, *seen) = ctx.saved_tensors[:num_layers], ctx.saved_tensors[num_layers:]
        needed = ctx.needs_input_grad[2:]
        is_stacked = weights[0].ndim == 3
        gradients: list[list[torch.Tensor]] = [[] for _ in needed]
        of_inputs = None
        for c, member in enumerate(_by_member(weights, 3)):
            flowing = (gradient[:, c] if is_stacked else gradient).contiguous()
            for k in reversed(range(num_layers)):
                if k < num_hidden:
                    flowing = torch.ops.aten.threshold_backward(flowing, seen[c * num_layers + k], 0.0)
                below = seen[c * num_layers + k - 1] if k else inputs
                if needed[k]:
                    gradients[k].append(_product(flowing.t(), below.t()))
                if needed[num_layers + k]:
                    gradients[num_layers + k].append(flowing.sum(0))
                if k or ctx.needs_input_grad[0]:
                    flowing = _product(flowing, member[k].t())
            if ctx.needs_input_grad[0]:
                of_inputs = flowing if of_inputs is None else of_inputs + flowing
        joined = [_joined(each, is_stacked) for each in gradients]
        return of_inputs, None, *joined


def _forward(
    inputs: torch.Tensor, num_hidden: int, parameters: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The outputs, and the output of every layer of every member."""
    num_layers = len(parameters) // 2
    weights, biases = _by_member(parameters[:num_layers], 3), _by_member(parameters[num_layers:], 2)
    seen = []
    outputs = []
    for member in zip(weights, biases, strict=True):
        hidden = inputs
        for k, (weight, bias) in enumerate(zip(*member, strict=True)):
            hidden = _layer(hidden, weight, bias, k < num_hidden)
            seen.append(hidden)
        outputs.append(hidden)
    return torch.stack(outputs, dim=1) if parameters[0].ndim == 3 else outputs[0], seen


def _by_member(leaves: Sequence[torch.Tensor], stacked_axes: int) -> Sequence[Sequence[torch.Tensor]]:
    """The tensors of each of C stacks, or of the only one."""
    if leaves[0].ndim < stacked_axes:
        return [leaves]
    return list(zip(*(leaf.unbind() for leaf in leaves), strict=True))


def _joined(gradients: list[torch.Tensor], is_stacked: bool) -> torch.Tensor | None:
    if not gradients:
        return None
    return torch.stack(gradients) if is_stacked else gradients[0]


def _layer(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, rectified: bool) -> torch.Tensor:
    if rows.shape[0] * weight.numel() >= _LARGE:
        return _onednn(rows, weight, bias, rectified)
    product = torch.nn.functional.linear(rows, weight, bias)
    return torch.relu_(product) if rectified else product


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right.T`, of rows or columns that lie together."""
    if left.shape[0] * right.numel() >= _LARGE:
        return _onednn(left, right)
    # With the narrow one on the left, MKL is several times as fast.
    return right.mm(left.t()).t() if right.shape[0] < left.shape[0] else left.mm(right.t())


def _onednn(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None, rectified: bool = False
) -> torch.Tensor:
    """`left @ right.T + bias`: what torch's compiler makes of a linear layer."""
    attribute = "relu" if rectified else "none"
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, attribute, [], "")
    return product


@functools.cache
def _onednn_is_faster() -> bool:
    """Whether this is a processor with AVX-512 on which MKL does without it, and torch has what `_onednn` calls."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    processors = pathlib.Path("/proc/cpuinfo")
    if not processors.exists() or "GenuineIntel" in processors.read_text():
        return False
    ones = torch.ones(2, 2)
    try:
        return torch.equal(_onednn(ones, ones, -ones[0], True), ones)
    except (AttributeError, RuntimeError):  # not a part of torch's documented interface: another version may lack it
        return False
