"""What is raised when an environment misbehaves. Imports no torch, so that worker processes start fast."""

from typing import Any


class EnvironmentFault(ValueError):
    """An environment broke its contract, or raised.

    The last line of the message names the environment, which of the parallel ones, its episode and its step in that
    episode, what was wrong and what was expected.
    """


def locate(name: str, index: int | None, num_envs: int, episode: int | None = None, step: int | None = None) -> str:
    """Says where something happened.

    Args:
        name: of the environment.
        index: which of the parallel environments, from 0; None for all of them together.
        num_envs: B.
        episode: of that environment, from 1; `None` if unknown.
        step: in that episode, from 0 (the reset); `None` if unknown.
    """
    which = f"all {num_envs} environments" if index is None else f"environment {index} of 0…{num_envs - 1}"
    when = "" if episode is None else f", episode {episode}, step {step}"
    return f"{name!r}, {which}{when}"


def shorten(value: Any, limit: int = 80) -> str:
    """`repr(value)`, cut to about `limit` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[:limit]}…"
