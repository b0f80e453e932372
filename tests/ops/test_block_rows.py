"""Against tables worked out by hand."""

import pytest
import torch

from alfish.ops.block_rows import bootstrap_rows, ends_at_newest, episode_end_rows, nearest_end_rows, take_rows


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


def test_nearest_end_rows():
    ends = torch.tensor([[0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]], dtype=torch.bool)
    assert nearest_end_rows(ends).tolist() == [[1, 1, 4, 4, 4, 5], [0, 5, 5, 5, 5, 5]]


@pytest.mark.parametrize(
    ("is_last", "position", "expected"),
    [
        ([0, 0, 0, 0], [5, 6, 7, 8], [0, 0, 0]),  # what follows row 8 is not asked for
        ([0, 0, 0, 0], [5, 6, 6, 6], [0, 1, 1]),  # row 6 is the newest
        ([0, 1, 1, 1], [5, 6, 6, 6], [0, 0, 0]),  # an end, repeated by the buffer
        ([0, 1, 0, 0], [5, 6, 7, 7], [0, 0, 1]),  # the newest row begins an episode
    ],
)
def test_ends_at_newest(is_last, position, expected):
    found = ends_at_newest(torch.tensor([is_last], dtype=torch.bool), torch.tensor([position]))
    assert found.tolist() == [list(map(bool, expected))]


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
