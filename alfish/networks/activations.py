"""The activations of dense layers, by name."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional

Activation = Literal["relu", "tanh", "elu", "gelu", "silu"]

_MANY = 4096
"""Elements from which on numpy's tanh is faster than torch's, what calling it costs included."""


def tanh_(product: torch.Tensor) -> torch.Tensor:
    """The hyperbolic tangent of a fresh product of a layer, which is overwritten; differentiable.

    On a CPU torch takes about 2 ns for an element on one thread, eight times as long as numpy, which has one: in a
    policy of two layers of 64 that was a sixth of an update. The two differ in the last bits. `torch.func` does not
    transform it.

    Args:
        product: `[...]`, not needed afterwards.

    Returns:
        `[...]`, in the same memory where numpy computed it.
    """
    if (
        product.numel() < _MANY
        or product.dtype != torch.float32
        or product.device.type != "cpu"
        or torch.compiler.is_compiling()
        or not product.is_contiguous()
    ):
        return torch.tanh(product)
    if torch.is_grad_enabled():
        result: torch.Tensor = _Tanh.apply(product)
        return result
    return _overwritten(product)


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, product: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(product)
        _overwritten(product)
        ctx.save_for_backward(product)
        return product

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (result,) = ctx.saved_tensors
        slope: torch.Tensor = torch.ops.aten.tanh_backward(gradient, result)
        return slope


def _overwritten(values: torch.Tensor) -> torch.Tensor:
    # Views of the same memory; without gradient, as numpy wants it.
    array = values.detach().numpy()
    np.tanh(array, out=array)
    return values


# In place where that saves a copy: their input is always the fresh product of a layer.
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu_,
    "tanh": tanh_,
    "elu": torch.nn.functional.elu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}
