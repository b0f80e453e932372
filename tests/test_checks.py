import numpy as np
import pytest

from alfish.checks import check_at_least


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
