import math

import pytest
import torch

from alfish.ops.replay_priorities import max_mean_priority


def test_by_hand():
    error = torch.tensor([[1.0, -4.0, 1.0], [-2.0, 0.0, math.nan], [9.0, math.inf, 9.0]])
    counted = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    # means 2, 1, none; largest 4, 2, none
    assert max_mean_priority(error, counted, 0.0).tolist() == [2.0, 1.0, 0.0]
    assert max_mean_priority(error, counted, 1.0).tolist() == [4.0, 2.0, 0.0]
    assert max_mean_priority(error, counted, 0.75).tolist() == [3.5, 1.75, 0.0]


@pytest.mark.parametrize("max_share", [0.0, 0.9, 1.0])
def test_of_one_row_it_is_the_size_of_its_error(max_share):
    error = torch.tensor([[-0.3], [1.7]])
    priority = max_mean_priority(error, torch.ones(2, 1, dtype=torch.bool), max_share)
    torch.testing.assert_close(priority, torch.tensor([0.3, 1.7]))
