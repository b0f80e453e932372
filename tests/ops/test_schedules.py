import math

import pytest

from alfish.ops.schedules import ConstantSchedule, LinearSchedule, StepSchedule, as_schedule


def test_constant():
    assert [ConstantSchedule(3)(fraction) for fraction in (0.0, 0.5, 1.0)] == [3.0, 3.0, 3.0]


def test_linear_by_hand():
    schedule = LinearSchedule(4.0, 2.0, end_fraction=0.5)
    assert [schedule(fraction) for fraction in (0.0, 0.25, 0.5, 0.75, 1.0)] == [4.0, 3.0, 2.0, 2.0, 2.0]
    assert LinearSchedule(0.001)(1.0) == 0.0
    assert LinearSchedule(0.001)(1.2) == 0.0


def test_step_by_hand():
    schedule = StepSchedule([0.5, 0.75], [1.0, 0.5, 0.25])
    assert [schedule(fraction) for fraction in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert StepSchedule([], [7.0])(0.3) == 7.0


def test_as_schedule():
    linear = LinearSchedule(1.0)
    assert as_schedule(linear, "x") is linear
    assert as_schedule(0.5, "x")(0.9) == 0.5
    for value in ("0.5", math.nan, True, None):
        with pytest.raises(ValueError, match="Algorithm.x is"):
            as_schedule(value, "Algorithm.x")
    with pytest.raises(ValueError, match=r"Algorithm.x is the class LinearSchedule; .* @LinearSchedule\(\) with its"):
        as_schedule(LinearSchedule, "Algorithm.x")
    assert as_schedule(linear, "x", minimum=0.0, maximum=1.0) is linear
    with pytest.raises(ValueError, match=r"x is 0.49.* at 51 % of the run; it must be at least 0.5 everywhere"):
        as_schedule(linear, "x", minimum=0.5)
    with pytest.raises(ValueError, match=r"x is 1.0 at 0 % of the run; it must be at most 0.5 everywhere"):
        as_schedule(linear, "x", maximum=0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConstantSchedule(math.inf), "ConstantSchedule.value is inf"),
        (lambda: LinearSchedule(math.nan), "initial_value is nan"),
        (lambda: LinearSchedule(1.0, 0.0, 0.0), "end_fraction is 0.0"),
        (lambda: LinearSchedule(1.0, 0.0, 1.5), "end_fraction is 1.5"),
        (lambda: StepSchedule([0.5, 0.5], [1.0, 2.0, 3.0]), "boundaries"),
        (lambda: StepSchedule([1.0], [1.0, 2.0]), "boundaries"),
        (lambda: StepSchedule([0.5], [1.0]), "1 boundaries and 1 values"),
        (lambda: StepSchedule([0.5], [1.0, "a"]), "StepSchedule.values is 'a'"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
