"""Checks that the ring and the episode index share."""

from typing import Any

import numpy as np
import torch


def check_stored(position: np.ndarray, env_id: np.ndarray, oldest: int, newest: int, num_envs: int) -> None:
    """Checks that all positions lie in `[oldest, newest]` and all environments in `[0, num_envs)`.

    Raises:
        ValueError: one does not; says which range was asked for.
    """
    for name, asked, low, high in (("position", position, oldest, newest), ("env_id", env_id, 0, num_envs - 1)):
        if asked.size and (asked.min() < low or asked.max() > high):
            raise ValueError(f"{name} from {asked.min()} to {asked.max()} is not stored; stored are {low} to {high}")


def check_keys(state: dict[str, Any], own: dict[str, Any], what: str) -> None:
    """Checks that a state has the keys of one's own.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(state, dict) or state.keys() != own.keys():
        found = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{what}: the state holds {found}, expected {sorted(own)}; it was not saved by this class")


def check_count(count: Any, what: str) -> None:
    """Checks a saved counter.

    Raises:
        ValueError: it is not a whole number that is at least 0.
    """
    if not isinstance(count, int) or count < 0:
        raise ValueError(f"{what}: the state has num_added={count!r}, expected a whole number of rows; it is damaged")


def check_tensors(tensors: Any, expected: list[torch.Tensor], what: str) -> None:
    """Checks the shapes and dtypes of saved tensors.

    Raises:
        ValueError: they are not those of `expected`.
    """
    wanted = [_describe(tensor) for tensor in expected]
    found = [_describe(tensor) for tensor in tensors] if isinstance(tensors, list) else _describe(tensors)
    if found != wanted:
        raise ValueError(f"{what}: the state's tensors are {found}, expected {wanted}; it is damaged")


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
