"""Does a stored state fit the object that shall take it? Asked of all before any is changed."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch

MISSING = "missing"
NOT_EXPECTED = "not expected"
MAX_ROWS = 10


class Stateful(Protocol):
    """What a checkpoint can hold: weights, optimisers, replay, counters, random streams.

    `state_dict` returns dicts (keys are str or int), lists and tuples of torch tensors and plain numbers, strings,
    bytes, booleans or None. Three optional members:

    * `check_state_dict(state)` raises a ValueError if `load_state_dict(state)` would fail. All are asked before any
      component is changed.
    * `copies_on_load = True` promises that `load_state_dict` copies every tensor that it keeps. Then large tensors are
      handed over as maps of the checkpoint's files and never exist twice in memory. Without it the component receives
      copies that it may keep; a torch.nn.Module copies by itself.
    * `way_out` says what a user can do if a checkpoint has no state for it, or one that does not fit.
    """

    def state_dict(self) -> Any:
        """All that is needed to go on."""

    def load_state_dict(self, state: Any) -> Any:
        """Goes on from a state."""


class CheckpointMismatch(ValueError):
    """A checkpoint was made by a run whose parts have other names or shapes. Nothing was loaded."""


class Difference(NamedTuple):
    """A row of the table that a mismatch shows."""

    key: str
    expected: str
    found: str


def names_differ(expected: Iterable[str], found: Iterable[str], what: str) -> list[Difference]:
    """The names that are only in one of two collections."""
    expected, found = set(expected), set(found)
    return [
        Difference(name, what if name in expected else NOT_EXPECTED, what if name in found else MISSING)
        for name in sorted(expected ^ found)
    ]


def differences(component: Any, state: Any) -> list[Difference]:
    """Where a state does not fit a module (keys and shapes) or an optimiser (sizes of the parameter groups).

    Other components are asked through their own `check_state_dict`, which raises.
    """
    rows: list[Difference] = []
    if isinstance(component, torch.nn.Module):
        rows = _module_differences(component, state)
    elif isinstance(component, torch.optim.Optimizer):
        rows = _optimizer_differences(component, state)
    if not rows and hasattr(component, "check_state_dict"):
        component.check_state_dict(state)
    return rows


def raise_mismatch(what: str, rows: list[Difference]) -> None:
    """Raises a CheckpointMismatch with a table of the first rows and the count of the others, if there are any."""
    if not rows:
        return
    table = [Difference("key", "expected", "in the file"), *rows[:MAX_ROWS]]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    if len(rows) > MAX_ROWS:
        lines.append(f"  and {len(rows) - MAX_ROWS} more")
    raise CheckpointMismatch(
        f"{what} does not fit this run:\n"
        + "\n".join(lines)
        + "\nNothing was loaded. Use the configuration of the run that wrote it, or begin a new run in another folder."
    )


def _module_differences(module: torch.nn.Module, state: Any) -> list[Difference]:
    own = module.state_dict()
    if not isinstance(state, dict):
        return [Difference("(everything)", f"{len(own)} keys", type(state).__name__)]
    rows = []
    for key, value in own.items():
        expected, found = describe(value), describe(state[key]) if key in state else MISSING
        if expected != found:
            rows.append(Difference(key, expected, found))
    rows.extend(Difference(str(key), NOT_EXPECTED, describe(state[key])) for key in state if key not in own)
    return rows


def _optimizer_differences(optimizer: torch.optim.Optimizer, state: Any) -> list[Difference]:
    try:
        found = [len(group["params"]) for group in state["param_groups"]]
    except (TypeError, KeyError):
        return [Difference("(everything)", "the state of an optimiser", type(state).__name__)]
    expected = [len(group["params"]) for group in optimizer.param_groups]
    if expected == found:
        return []
    return [Difference("param_groups", f"parameters {expected}", f"parameters {found}")]


def describe(value: Any) -> str:
    """The shape of a stored value, as tables of differences show it."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    return "not a tensor"
