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
    if _is_finite_number(value) and minimum <= value <= maximum:
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


def check_above(name: str, value: float, minimum: float) -> None:
    """Checks a number that must be larger than another one, such as a temperature.

    Args:
        name: of the setting, for the message, e.g. `"PPOAlgorithm.target_kl"`.
        value: what it was set to.
        minimum: the largest value that can not be used.

    Raises:
        ValueError: `value` is not above it, or is no finite number.
    """
    if not _is_finite_number(value) or value <= minimum:
        raise ValueError(f"{name} is {value!r}; expected a finite number above {minimum:g}")


def check_made(name: str, value: object, is_one: bool, example: str) -> None:
    """Checks an object that a gin file makes, which is easily given as its class: the parentheses were forgotten.

    Args:
        name: of the setting, for the message, e.g. `"DQNAlgorithm.target_update"`.
        value: what it was set to.
        is_one: whether that can be used, if it is not a class.
        example: how one is written in a gin file, e.g. `"@TargetUpdate()"`.

    Raises:
        ValueError: it cannot be used, or is a class.
    """
    if isinstance(value, type):
        raise ValueError(
            f"{name} is the class {value.__name__}; expected one of it: in a gin file, {example} with its parentheses"
        )
    if not is_one:
        raise ValueError(f"{name} is {value!r}; expected, in a gin file, {example}")


def _is_finite_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
