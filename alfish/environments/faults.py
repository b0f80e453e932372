"""What is raised when an environment misbehaves. Imports no torch, so that worker processes start fast."""

import re
from typing import Any

_WHICH = re.compile(r"environment (\d+) of 0…\d+")

MAX_TEXT, MAX_TRACE = 2_000, 30_000
"""Characters of an exception's message, and of a message that quotes a traceback."""


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


def renumbered(message: str, first_env: int, num_envs: int) -> str:
    """A fault's message with the number that its environment has among others.

    Args:
        message: its last line begins with what `locate` said; tracebacks before it stay as they are.
        first_env: how many environments come before those that `locate` counted.
        num_envs: how many there are of all.
    """
    before, newline, last = message.rpartition("\n")
    last = _WHICH.sub(lambda found: f"environment {int(found[1]) + first_env} of 0…{num_envs - 1}", last, count=1)
    return f"{before}{newline}{last}"


def without_middle(text: str, limit: int = MAX_TEXT) -> str:
    """A text of whatever length, cut in the middle to about `limit` characters: its end says what happened."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … ({len(text) - 2 * half} characters) … {text[-half:]}"


def shorten(value: Any, limit: int = 80) -> str:
    """`repr(value)`, cut to about `limit` characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[:limit]}…"
