"""Rows of a sampled block: where their episodes and their returns end."""

import torch


def episode_end_rows(is_last: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """E: for each row of a block the row at which its episode ends.

    Args:
        is_last: `[B, L]` bool.
        position: `[B, L]` int64, see BatchInfo: it repeats behind the newest stored row.

    Returns:
        `[B, L]` int64, numbers of rows in the block. The block's last row counts as an end.
    """
    ends = is_last.clone()
    ends[:, :-1] |= position[:, 1:] == position[:, :-1]
    return nearest_end_rows(ends)


def nearest_end_rows(ends: torch.Tensor) -> torch.Tensor:
    """For each row of a block the nearest row at or after it that is an end.

    Args:
        ends: `[B, L]` bool.

    Returns:
        `[B, L]` int64, numbers of rows in the block. The block's last row counts as an end.
    """
    last = ends.shape[1] - 1
    rows = torch.arange(last + 1, device=ends.device)
    # It is the running minimum from the right.
    return torch.where(ends, rows, last).flip(1).cummin(dim=1).values.flip(1)


def ends_at_newest(is_last: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """True where a row is the newest one that is stored, of an episode that goes on.

    The block repeats it, but from it to itself there is no transition: what its action led to is not stored yet. There
    is no target for it, and what the rows before it read ahead ends here, with its value.

    Args:
        is_last: `[B, L]` bool.
        position: `[B, L]` int64, see BatchInfo: it repeats behind the newest stored row.

    Returns:
        `[B, L-1]` bool, of all rows that the block holds a row after.
    """
    return (position[:, 1:] == position[:, :-1]) & ~is_last[:, :-1]


def bootstrap_rows(end_row: torch.Tensor, horizon: int | torch.Tensor, num_rows: int) -> torch.Tensor:
    """The rows c + m at which returns end: m = min(n, E(c) - c).

    Args:
        end_row: `[B, L]`, E.
        horizon: n, at least 0; one number, or one for each row, `[B, N]` or `[B, 1]` int64.
        num_rows: N, how many of the first rows c are asked for.

    Returns:
        `[B, N]` int64, numbers of rows in the block.
    """
    return torch.minimum(torch.arange(num_rows, device=end_row.device) + horizon, end_row[:, :num_rows])


def take_rows(leaf: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`leaf[b, rows[b, ...]]`: of `[B, L, X]` the rows `[B, ...]`, copied to `[B, ..., X]`."""
    if leaf.dim() == 2:
        return leaf.gather(1, rows.flatten(1)).view_as(rows)
    return leaf[torch.arange(len(rows), device=rows.device).view(-1, *[1] * (rows.dim() - 1)), rows]
