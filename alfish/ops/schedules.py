"""Numbers that change with the progress of a run: functions of the fraction of it that is done, in [0, 1].

A schedule has no state, so a resumed run goes on where it was. Arguments that may be scheduled accept a plain number,
too; `as_schedule` makes one of the other.
"""

import bisect
import math
from collections.abc import Callable, Sequence

import gin

from alfish.checks import check_made

Schedule = Callable[[float], float]
"""From the fraction of the run that is done to a value."""


@gin.configurable
class ConstantSchedule:
    """The same value throughout.

    Args:
        value: finite.
    """

    def __init__(self, value: float):
        self._value = _finite(value, "ConstantSchedule.value")

    def __call__(self, fraction: float) -> float:
        """The value at `fraction` of the run."""
        del fraction
        return self._value


@gin.configurable
class LinearSchedule:
    """A straight line from one value to another, constant from there on.

    Args:
        initial_value: at the start of the run.
        final_value: at `end_fraction` and behind it.
        end_fraction: where the line ends, in (0, 1].
    """

    def __init__(self, initial_value: float, final_value: float = 0.0, end_fraction: float = 1.0):
        self._initial_value = _finite(initial_value, "LinearSchedule.initial_value")
        self._final_value = _finite(final_value, "LinearSchedule.final_value")
        if not 0.0 < end_fraction <= 1.0:
            raise ValueError(f"LinearSchedule.end_fraction is {end_fraction}; expected a part of the run, in (0, 1]")
        self._end_fraction = end_fraction

    def __call__(self, fraction: float) -> float:
        """The value at `fraction` of the run."""
        done = min(max(fraction / self._end_fraction, 0.0), 1.0)
        return (1.0 - done) * self._initial_value + done * self._final_value


@gin.configurable
class StepSchedule:
    """Piecewise constant: value i from boundary i-1 on, up to boundary i.

    Args:
        boundaries: fractions of the run, increasing, in (0, 1).
        values: one more than there are boundaries.
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[float]):
        ends = [0.0, *boundaries, 1.0]
        if not all(lower < upper for lower, upper in zip(ends[:-1], ends[1:], strict=True)):
            raise ValueError(f"StepSchedule.boundaries is {boundaries}; expected increasing numbers between 0 and 1")
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"StepSchedule has {len(boundaries)} boundaries and {len(values)} values; expected one value more than "
                "boundaries: one for each piece"
            )
        self._boundaries = list(boundaries)
        self._values = [_finite(value, "StepSchedule.values") for value in values]

    def __call__(self, fraction: float) -> float:
        """The value at `fraction` of the run."""
        return self._values[bisect.bisect_right(self._boundaries, fraction)]


def as_schedule(value: float | Schedule, name: str, minimum: float = -math.inf, maximum: float = math.inf) -> Schedule:
    """A schedule from a number or a schedule.

    Args:
        value: a number, or a function of the fraction of the run.
        name: of the argument, for the message.
        minimum: what it must not fall below anywhere in the run; looked at every hundredth of it.
        maximum: what it must not rise above.

    Raises:
        ValueError: it is neither, or not finite, or outside of these somewhere.
    """
    if isinstance(value, type):
        check_made(name, value, True, f"@{value.__name__}()")
    schedule = value if callable(value) else ConstantSchedule(_finite(value, name))
    for step in range(101):
        number = _finite(schedule(step / 100), f"{name} at {step} % of the run")
        if number < minimum:
            raise ValueError(f"{name} is {number} at {step} % of the run; it must be at least {minimum:g} everywhere")
        if number > maximum:
            raise ValueError(f"{name} is {number} at {step} % of the run; it must be at most {maximum:g} everywhere")
    return schedule


def _finite(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    return float(value)
