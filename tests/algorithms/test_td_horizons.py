"""Horizons by age, by hand."""

import pytest
import torch

from alfish.algorithms.td_horizons import LinearTdStepFunc, MixedValueTarget


def test_the_horizon_falls_with_the_age():
    # 1 + 4 (1 - age / 10), rounded up: 5, 4.6, 4.2, 3.8, 3.4, 3, 2.6, 1.4, 1, 1.
    function = LinearTdStepFunc(max_bootstrap_age=10, min_td_steps=1)
    age = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 9, 10, 11]])
    assert function(age, 5).tolist() == [[5, 5, 5, 4, 4, 3, 3, 2, 1, 1]]


def test_the_horizon_is_exact():
    # 1 + 9 · 2/3 = 7, and 1 + 9 · 1/3 = 4, which floats put above.
    assert LinearTdStepFunc(3)(torch.arange(5), 10).tolist() == [10, 7, 4, 1, 1]
    assert LinearTdStepFunc(10**12)(torch.tensor([10**12 - 1, 10**12]), 1000).tolist() == [2, 1]


def test_the_horizon_may_fall_to_0_or_not_at_all():
    assert LinearTdStepFunc(2, min_td_steps=0)(torch.arange(4), 2).tolist() == [2, 1, 0, 0]
    assert LinearTdStepFunc(2, min_td_steps=3)(torch.arange(4), 3).tolist() == [3, 3, 3, 3]


def test_mixed_values_turn_to_searches():
    mixed = MixedValueTarget(initial_updates=100, fresh_env_steps=20)
    age = torch.tensor([[0, 19, 20, 500]])
    assert mixed.searched(age, 99).tolist() == [[False, False, False, False]]
    assert mixed.searched(age, 100).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearTdStepFunc(0), "LinearTdStepFunc.max_bootstrap_age is 0"),
        (lambda: LinearTdStepFunc(1.5), "LinearTdStepFunc.max_bootstrap_age is 1.5"),
        (lambda: LinearTdStepFunc(5, -1), "LinearTdStepFunc.min_td_steps is -1"),
        (lambda: MixedValueTarget(-1, 0), "MixedValueTarget.initial_updates is -1"),
        (lambda: MixedValueTarget(0, -1), "MixedValueTarget.fresh_env_steps is -1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
