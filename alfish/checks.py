"""Checks of what a user has set, each with one wording everywhere."""

import numbers


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Checks a count, such as a size or an interval.

    Args:
        name: of the setting, for the message, e.g. `"Trainer.num_envs"`.
        value: what it was set to.
        minimum: the smallest value that can be used.

    Raises:
        ValueError: `value` is smaller, or no whole number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {minimum}")
    if value < minimum:
        raise ValueError(f"{name} is {value}; it must be at least {minimum}")
