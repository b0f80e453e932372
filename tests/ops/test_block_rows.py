"""Against tables worked out by hand."""

import pytest
import torch

from alfish.ops.block_rows import bootstrap_rows, episode_end_rows, take_rows


@pytest.mark.parametrize(
    ("is_last", "position", "expected"),
    [
        ([0, 0, 1, 0, 0], [0, 1, 2, 3, 4], [2, 2, 2, 4, 4]),  # an end inside; the block's last row counts as one
        ([0, 1, 0, 1, 0], [0, 1, 2, 3, 4], [1, 1, 3, 3, 4]),
        ([0, 0, 0, 0, 0], [5, 6, 7, 7, 7], [2, 2, 2, 3, 4]),  # an open episode whose newest row is 7
        ([0, 1, 1, 1, 1], [5, 6, 6, 6, 6], [1, 1, 2, 3, 4]),  # an end, repeated by the buffer
    ],
)
def test_episode_end_rows(is_last, position, expected):
    ends = episode_end_rows(torch.tensor([is_last], dtype=torch.bool), torch.tensor([position]))
    assert ends.tolist() == [expected]


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        (2, [1, 1, 4, 5]),
        (0, [0, 1, 2, 3]),
        (9, [1, 1, 5, 5]),
        (torch.tensor([[0, 1, 2, 3]]), [0, 1, 4, 5]),
        (torch.tensor([[1]]), [1, 1, 3, 4]),
    ],
)
def test_bootstrap_rows(horizon, expected):
    # So many steps on, or the end of the episode: row 1, then row 5.
    assert bootstrap_rows(torch.tensor([[1, 1, 5, 5, 5, 5]]), horizon, num_rows=4).tolist() == [expected]


def test_take_rows():
    flat = torch.tensor([[10, 11, 12], [20, 21, 22]])
    rows = torch.tensor([[[2, 0]], [[1, 1]]])
    assert take_rows(flat, rows).tolist() == [[[12, 10]], [[21, 21]]]
    deep = torch.stack((flat, -flat), dim=-1)
    assert take_rows(deep, rows)[..., 1].tolist() == [[[-12, -10]], [[-21, -21]]]
