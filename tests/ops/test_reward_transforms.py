"""Transforms of rewards."""

import math

import pytest
import torch

from alfish.ops.reward_transforms import ShiftedReward, SignReward


def test_signs():
    assert SignReward()(torch.tensor([-2.5, 0.0, 0.1])).tolist() == [-1.0, 0.0, 1.0]


def test_shift_comes_before_scale():
    assert ShiftedReward(offset=6.0, scale=0.25)(torch.tensor([[-16.0], [-6.0], [0.0]])).tolist() == [
        [-2.5],
        [0.0],
        [1.5],
    ]


@pytest.mark.parametrize("arguments", [(0.0, 0.0), (0.0, -1.0), (0.0, math.inf), (math.nan, 1.0)])
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="ShiftedReward.scale is .* expected finite numbers, the scale above 0"):
        ShiftedReward(*arguments)
