"""An optimiser's step and the norm of its gradient, over all parameters at once where that is possible."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from alfish.trainers.state_checks import differences, raise_mismatch

JOINABLE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)
"""Optimisers that treat each number by itself: what they do to many tensors they do to these laid end to end."""
_SHARED = "step"
"""The one entry of their states that is not of the shape of the parameter."""
_LINE = 16
"""Each parameter begins on a cache line of its own, of so many numbers."""


class GradientStep:
    """Steps parameters, after their gradient was brought to a norm.

    On a CPU the parameters become views of one tensor (`JoinedParameters`): an optimiser spends about as long on each
    tensor as on some thousand numbers. What they become differs by rounding: of the norm, and in the fused Adam of a
    tensor's last numbers. A parameter without a gradient is not stepped, as torch has it; from the first time on that
    this happens, or that a parameter was given other memory (`Module.to`), each is stepped by itself. What a checkpoint
    holds is the same either way.

    Args:
        optimizer: makes the optimiser.
        parameters: what it steps; at least one.
        learning_rate: at the start.
        max_norm: a larger gradient is scaled down to this norm; None leaves it.
    """

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        parameters: Sequence[torch.nn.Parameter],
        learning_rate: float,
        max_norm: float | None,
    ):
        self._parameters = list(parameters)
        self._max_norm = max_norm
        self._separate = optimizer(self._parameters, lr=learning_rate)
        self._joined: JoinedParameters | None = None
        if type(self._separate) in JOINABLE and _can_be_joined(self._parameters):
            self._joined = JoinedParameters(optimizer, self._parameters, learning_rate)

    @property
    def is_joined(self) -> bool:
        """Whether all parameters are stepped as one."""
        return self._joined is not None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimiser of the separate parameters, with its state as it is now."""
        if self._joined is not None:
            self._joined.write_state(self._separate)
        return self._separate

    def set_learning_rate(self, learning_rate: float) -> None:
        """Of the steps from now on."""
        joined = [] if self._joined is None else self._joined.optimizer.param_groups
        for group in (*self._separate.param_groups, *joined):
            group["lr"] = learning_rate

    def clear(self) -> None:
        """Forgets the gradient."""
        for parameter in self._parameters:
            parameter.grad = None

    def read_gradient(self) -> torch.Tensor:
        """Takes the gradient that `backward` left, and scales it down if it is too large.

        Returns:
            Its norm before that, a scalar.
        """
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        if self._joined is not None:
            if len(gradients) == len(self._parameters) and self._joined.are_in_place():
                return self._joined.read_gradient(gradients, self._max_norm)
            self._separate = self.optimizer
            self._joined = None
        if self._max_norm is None:
            return torch.nn.utils.get_total_norm(gradients)
        return torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)

    def step(self) -> None:
        """Moves the parameters by the gradient that was read."""
        stepping = self._separate if self._joined is None else self._joined.optimizer
        stepping.step()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's kind and state, and how the parameters are stepped."""
        optimizer = self.optimizer
        return {"kind": type(optimizer).__name__, "optimizer": optimizer.state_dict(), "joined": self.is_joined}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state is of another kind of optimiser or of other parameters."""
        kind = type(self._separate).__name__
        if state["kind"] != kind:
            raise ValueError(
                f"the checkpoint was made with the optimiser {state['kind']}, this run has {kind}; set "
                "Updater.optimizer back, or begin a new run in another folder"
            )
        raise_mismatch("the updater", differences(self._separate, state["optimizer"]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the optimiser's settings stay those of this run's config."""
        settings = self._separate.state_dict()["param_groups"]
        self._separate.load_state_dict({"state": state["optimizer"]["state"], "param_groups": settings})
        if self._joined is not None:
            if state.get("joined", True) and self._joined.read_state(self._separate):
                self._separate.state.clear()
            else:
                self._joined = None


class JoinedParameters:
    """Parameters as views of one tensor, their gradients copied to another one, and an optimiser of that one tensor.

    Args:
        optimizer: makes the optimiser, one of JOINABLE.
        parameters: contiguous, of one kind of numbers; their memory is replaced.
        learning_rate: at the start.

    Attributes:
        optimizer: of the one tensor.
    """

    def __init__(
        self,
        optimizer: Callable[..., torch.optim.Optimizer],
        parameters: Sequence[torch.nn.Parameter],
        learning_rate: float,
    ):
        self._parameters = parameters
        size = sum(map(_padded_size, parameters))
        memory = parameters[0].detach().new_zeros(size)
        for parameter, view in zip(parameters, self._views(memory), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view
        self._starts = [parameter.data_ptr() for parameter in parameters]
        self._whole = torch.nn.Parameter(memory)
        self._gradient = torch.zeros_like(memory)
        self._gradients = self._views(self._gradient)
        self.optimizer = optimizer([self._whole], lr=learning_rate)

    def are_in_place(self) -> bool:
        """Whether all parameters are views of the one tensor still."""
        return self._starts == [parameter.data_ptr() for parameter in self._parameters]

    def read_gradient(self, gradients: list[torch.Tensor], max_norm: float | None) -> torch.Tensor:
        """Takes the gradient of each parameter; see `GradientStep.read_gradient`."""
        torch._foreach_copy_(self._gradients, gradients)
        self._whole.grad = self._gradient
        norm = torch.linalg.vector_norm(self._gradient)
        if max_norm is not None:
            # As torch.nn.utils.clip_grad_norm_ does it.
            self._gradient.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm

    def write_state(self, separate: torch.optim.Optimizer) -> None:
        """Gives an optimiser of the separate parameters the state as it is now: views of it."""
        state = self.optimizer.state.get(self._whole, {})
        entries = {
            name: self._views(value) if isinstance(value, torch.Tensor) and name != _SHARED else None
            for name, value in state.items()
        }
        separate.state.clear()
        for k, parameter in enumerate(self._parameters):
            if state:
                separate.state[parameter] = {
                    name: copy.deepcopy(state[name]) if views is None else views[k] for name, views in entries.items()
                }

    def read_state(self, separate: torch.optim.Optimizer) -> bool:
        """Takes over the state of an optimiser of the separate parameters.

        Returns:
            False if they cannot be stepped as one, because they were not stepped equally often.
        """
        states = [separate.state.get(parameter, {}) for parameter in self._parameters]
        first = states[0]
        if any(state.keys() != first.keys() or state.get(_SHARED) != first.get(_SHARED) for state in states):
            return False
        whole = {}
        for name, value in first.items():
            whole[name] = value
            if isinstance(value, torch.Tensor) and name != _SHARED:
                whole[name] = torch.zeros_like(self._gradient)
                torch._foreach_copy_(self._views(whole[name]), [state[name] for state in states])
        self.optimizer.state.clear()
        if whole:
            self.optimizer.state[self._whole] = whole
        return True

    def _views(self, memory: torch.Tensor) -> list[torch.Tensor]:
        """The part of each parameter, in its shape."""
        parts = memory.split([_padded_size(parameter) for parameter in self._parameters])
        return [
            part[: parameter.numel()].view(parameter.shape)
            for part, parameter in zip(parts, self._parameters, strict=True)
        ]


def _padded_size(parameter: torch.Tensor) -> int:
    return math.ceil(parameter.numel() / _LINE) * _LINE


def _can_be_joined(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether they are in the memory of the CPU, each of its own and without gaps, and of the same kind of numbers."""
    parameters = list(parameters)
    starts = {each.untyped_storage().data_ptr() for each in parameters}
    return (
        all(each.layout == torch.strided and each.is_contiguous() for each in parameters)
        and {each.device.type for each in parameters} == {"cpu"}
        and len({each.dtype for each in parameters}) == 1
        and len(starts) == len(parameters) > 1
    )
