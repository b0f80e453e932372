"""Checks of what a user has set, each with one wording everywhere."""

import math
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


def check_in_range(name: str, value: float, minimum: float = -math.inf, maximum: float = math.inf) -> None:
    """Checks a number, such as a discount factor or a weight of a loss.

    Args:
        name: of the setting, for the message, e.g. `"PPOAlgorithm.discount"`.
        value: what it was set to.
        minimum: the smallest value that can be used.
        maximum: the largest one.

    Raises:
        ValueError: `value` lies outside, or is no finite number.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and minimum <= value <= maximum:
        return
    if minimum == -math.inf and maximum == math.inf:
        expected = "a finite number"
    elif maximum == math.inf:
        expected = f"a finite number of at least {minimum:g}"
    elif minimum == -math.inf:
        expected = f"a finite number of at most {maximum:g}"
    else:
        expected = f"a number in [{minimum:g}, {maximum:g}]"
    raise ValueError(f"{name} is {value!r}; expected {expected}")
