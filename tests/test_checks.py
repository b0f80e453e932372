import math

import numpy as np
import pytest

from alfish.checks import check_above, check_at_least, check_in_range, check_made


@pytest.mark.parametrize("value", [1, 7, np.int64(1)])
def test_counts_that_can_be_used(value):
    check_at_least("Thing.size", value, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "^Thing.size is 0; it must be at least 1$"),
        (np.int64(-3), "^Thing.size is -3; it must be at least 1$"),
        (2.5, "^Thing.size is 2.5; it must be a whole number of at least 1$"),
        ("two", "^Thing.size is 'two'; it must be a whole number of at least 1$"),
        (True, "^Thing.size is True; it must be a whole number of at least 1$"),
        (None, "^Thing.size is None; it must be a whole number of at least 1$"),
    ],
)
def test_counts_that_cannot_be_used(value, message):
    with pytest.raises(ValueError, match=message):
        check_at_least("Thing.size", value, 1)


@pytest.mark.parametrize(
    ("value", "minimum", "maximum"), [(0, 0.0, 1.0), (1.0, 0.0, 1.0), (np.float32(0.5), 0.0, 1.0), (7, 0.0, math.inf)]
)
def test_numbers_that_can_be_used(value, minimum, maximum):
    check_in_range("Thing.share", value, minimum, maximum)


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (1.5, {"minimum": 0.0, "maximum": 1.0}, r"^Thing.share is 1.5; expected a number in \[0, 1\]$"),
        (math.nan, {"minimum": 0.0, "maximum": 1.0}, r"^Thing.share is nan; expected a number in \[0, 1\]$"),
        (-0.1, {"minimum": 0.0}, "^Thing.share is -0.1; expected a finite number of at least 0$"),
        (math.inf, {"minimum": 0.0}, "^Thing.share is inf; expected a finite number of at least 0$"),
        (2, {"maximum": 1.5}, "^Thing.share is 2; expected a finite number of at most 1.5$"),
        (math.inf, {}, "^Thing.share is inf; expected a finite number$"),
        ("half", {"minimum": 0.0}, "^Thing.share is 'half'; expected a finite number of at least 0$"),
        (True, {"minimum": 0.0}, "^Thing.share is True; expected a finite number of at least 0$"),
        (None, {"minimum": 0.0}, "^Thing.share is None; expected a finite number of at least 0$"),
    ],
)
def test_numbers_that_cannot_be_used(value, bounds, message):
    with pytest.raises(ValueError, match=message):
        check_in_range("Thing.share", value, **bounds)


@pytest.mark.parametrize("value", [1.0e-9, 3, np.float32(0.5)])
def test_numbers_above(value):
    check_above("Thing.width", value, 0.0)


@pytest.mark.parametrize("value", [0.0, -1, math.nan, math.inf, "1", True, None])
def test_numbers_not_above(value):
    with pytest.raises(ValueError, match=f"^Thing.width is {value!r}; expected a finite number above 0$"):
        check_above("Thing.width", value, 0.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (dict, r"^Thing.part is the class dict; expected one of it: in a gin file, @Part\(\) with its parentheses$"),
        (None, r"^Thing.part is None; expected, in a gin file, @Part\(\)$"),
    ],
)
def test_what_is_not_made(value, message):
    check_made("Thing.part", {}, True, "@Part()")
    with pytest.raises(ValueError, match=message):
        check_made("Thing.part", value, value is dict, "@Part()")
