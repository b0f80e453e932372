"""Replay priorities of the segments that a MuZero model was trained on: pure functions, chosen by name or reference."""

import inspect
from collections.abc import Callable
from typing import Literal, get_args

import gin
import torch

from alfish import nest
from alfish.algorithms.muzero_losses import UnrollInfo
from alfish.models.mcts_model import MCTSModel

PriorityFunction = Callable[[MCTSModel, UnrollInfo, torch.Tensor], torch.Tensor]
"""From the model, what the loss was made from and the loss `[B, T]` to priorities `[B, T]` of at least 0.

Its tensors are those that the loss and the report are made of: it must not write to them. That is checked.
"""

PriorityName = Literal["value_error", "loss"]


@gin.configurable
def value_error_priority(model: MCTSModel, info: UnrollInfo, loss: torch.Tensor) -> torch.Tensor:
    """|v - z| of each row (Schrittwieser et al. 2020, appendix G): its value, as the model says it now, and its target.

    The paper takes the value that the search found when the row was collected. What the model says now is known
    without a search, and tells what is left to learn.
    """
    del loss
    value = model.value_of(info.unrolled.prediction.value_logits[..., 0, :])
    return (value - info.targets.value[..., 0]).abs()


@gin.configurable
def loss_priority(model: MCTSModel, info: UnrollInfo, loss: torch.Tensor) -> torch.Tensor:
    """The weighted loss of all heads over the unroll, 0 where it is negative (densities of continuous actions)."""
    del model, info
    return loss.clamp_min(0.0)


_BY_NAME: dict[str, PriorityFunction] = {"value_error": value_error_priority, "loss": loss_priority}


def make_priority_function(chosen: PriorityName | PriorityFunction) -> PriorityFunction:
    """The function of a name, or the function itself.

    Raises:
        ValueError: the name is not known, it is neither, or it does not take the model, the info and the loss.
    """
    if callable(chosen):
        _check_takes_three(chosen)
        return chosen
    if chosen not in _BY_NAME:
        raise ValueError(
            f"priority_function is {chosen!r}; expected one of {get_args(PriorityName)}, or a reference to a function "
            "of your own, such as @my_priority"
        )
    return _BY_NAME[chosen]


def _check_takes_three(function: PriorityFunction) -> None:
    name = getattr(function, "__name__", type(function).__name__)
    problem = "is a class" if isinstance(function, type) else ""
    if not problem:
        try:
            inspect.signature(function).bind_partial(0, 0, 0)  # more of them may be bound in gin
        except TypeError as error:
            problem = f"does not take three arguments ({error})"
    if problem:
        raise ValueError(
            f"MuzeroRepresentationImpl.priority_function is {name}, which {problem}; expected one of "
            f"{get_args(PriorityName)}, or a function of the model, the info of the unroll and the loss, such as "
            "@loss_priority"
        )


@torch.no_grad()
def segment_priority(
    function: PriorityFunction, model: MCTSModel, info: UnrollInfo, loss: torch.Tensor
) -> torch.Tensor:
    """The priority `[B]` of each sampled segment: the mean over its T rows.

    Raises:
        ValueError: what the function returns is no floating-point tensor `[B, T]`, or it wrote to its arguments.
    """
    given = [leaf for leaf in nest.leaves((info, loss)) if isinstance(leaf, torch.Tensor)]
    versions = [leaf._version for leaf in given]
    priority = function(model, info, loss.detach())
    name = getattr(function, "__name__", type(function).__name__)
    if [leaf._version for leaf in given] != versions:
        raise ValueError(
            f"priority_function {name} writes to the tensors that it is given, which the loss is made of; let it work"
            " on copies (loss.clone())"
        )
    expected = f"expected a floating-point tensor of the shape {tuple(loss.shape)}, one priority for each row"
    if not isinstance(priority, torch.Tensor):
        raise ValueError(f"priority_function {name} returns a {type(priority).__name__}; {expected}")
    if priority.shape != loss.shape or not priority.is_floating_point():
        raise ValueError(
            f"priority_function {name} returns a tensor of the shape {tuple(priority.shape)} and {priority.dtype};"
            f" {expected}"
        )
    return priority.mean(dim=1)
