"""Checks that the pieces of the replay buffer share."""

from typing import Any

import numpy as np
import torch


def check_stored(position: np.ndarray, env_id: np.ndarray, oldest: np.ndarray, newest: np.ndarray) -> None:
    """Checks that rows are stored.

    Args:
        position: int64 array of any shape.
        env_id: int64 array that broadcasts with it.
        oldest: int64 `[B]`, position of the oldest stored row of each environment.
        newest: int64 `[B]`, of the newest; less than `oldest` if there is none.

    Raises:
        ValueError: one is not; names it and says what is stored.
    """
    num_envs = len(oldest)
    if env_id.size and (env_id.min() < 0 or env_id.max() >= num_envs):
        raise ValueError(f"env_id from {env_id.min()} to {env_id.max()} is not stored; stored are 0 to {num_envs - 1}")
    wrong = (position < oldest[env_id]) | (position > newest[env_id])
    if wrong.any():
        one = np.argmax(wrong)
        row, env = (np.broadcast_to(array, wrong.shape).flat[one] for array in (position, env_id))
        raise ValueError(
            f"position {row} of environment {env} is not stored; stored are {oldest[env]} to {newest[env]}"
        )


def check_part(name: str, given: Any, protocol: type) -> None:
    """Checks that a piece that a user has chosen has all members of its protocol.

    Raises:
        ValueError: it is a class, or something else altogether; says what was given.
    """
    if isinstance(given, type):
        raise ValueError(
            f"{name} is the class {given.__name__}; expected an instance: {given.__name__}(…), in a gin file "
            f"@{given.__name__}() with its parentheses"
        )
    members = {*vars(protocol), *protocol.__annotations__}
    missing = sorted(member for member in members if not member.startswith("_") and not hasattr(given, member))
    if missing:
        raise ValueError(f"{name} is {given!r}, which is no {protocol.__name__}: it has no {', '.join(missing)}")


def check_keys(state: dict[str, Any], own: dict[str, Any], what: str) -> None:
    """Checks that a state has the keys of one's own.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(state, dict) or state.keys() != own.keys():
        found = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{what}: the state holds {found}, expected {sorted(own)}; another class or version saved it")


def check_num_added(num_added: Any, num_envs: int, what: str) -> None:
    """Checks saved counters, one for each environment.

    Raises:
        ValueError: they are not B whole numbers that are at least 0.
    """
    check_tensors([num_added], [torch.zeros(num_envs, dtype=torch.int64)], what)
    if int(num_added.min()) < 0:
        raise ValueError(f"{what}: the state has num_added={num_added.tolist()}, expected at least 0; it is damaged")


def check_tensors(tensors: Any, expected: list[torch.Tensor], what: str) -> None:
    """Checks the shapes and dtypes of saved tensors.

    Raises:
        ValueError: they are not those of `expected`; names the first one that differs.
    """
    if not isinstance(tensors, list) or len(tensors) != len(expected):
        found = f"a list of {len(tensors)}" if isinstance(tensors, list) else type(tensors).__name__
        raise ValueError(f"{what}: the state's tensors are {found}, expected a list of {len(expected)}; it is damaged")
    for number, (tensor, wanted) in enumerate(zip(tensors, expected, strict=True)):
        if _describe(tensor) != _describe(wanted):
            raise ValueError(
                f"{what}: the state's tensors are damaged: number {number} of {len(expected)} is {_describe(tensor)}, "
                f"expected {_describe(wanted)}"
            )


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
