"""Transforms of rewards."""

import math

import pytest
import torch

from alfish.ops.reward_transforms import ShiftedReward, SignReward, transformed_rewards


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


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (torch.sum, r"the reward transform .* made torch.float32 \(\) of rewards torch.float32 \(2, 2\); it must keep"),
        (torch.log, "made nan of the reward -4.0; it must be finite"),
    ],
)
def test_transforms_that_make_no_rewards_are_refused(transform, message):
    with pytest.raises(ValueError, match=message):
        transformed_rewards(torch.tensor([[1.0, 2.0], [3.0, -4.0]]), transform)


def test_transformed_rewards_have_no_gradient():
    scale = torch.ones((), requires_grad=True)
    made = transformed_rewards(torch.tensor([[1.0, -2.0]]), lambda reward: 2 * scale * reward)
    assert made.tolist() == [[2.0, -4.0]]
    assert not made.requires_grad
