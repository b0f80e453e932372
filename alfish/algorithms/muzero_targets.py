"""MuZero's training targets: pure functions of one block of rows.

A block is `[B, L]` with L = T + R + K rows. E(p) is the row at which the episode of row p ends: its LAST row, or the
newest stored row if it is still open. For the start p and k = 0 … R let c = min(p + k, E(p)).
"""

from typing import NamedTuple

import torch

from alfish import nest
from alfish.data_structures import TimeStep
from alfish.ops.returns import n_step_return


class MuzeroTargets(NamedTuple):
    """Targets `[B, T, R+1]`, except `action` `[B, T, R]`.

    Attributes:
        action: the action that led to row min(p + k + 1, E(p)).
        reward: received on arriving at c; 0 beyond the end of the episode.
        value: see `value_targets`; 0 where the game is over.
        policy: `[B, T, R+1, A]`, the search policy stored at c.
        beyond_episode_end: bool, p + k > E(p).
        game_over: bool, c is E(p) and its discount is 0: no reward can follow.
        is_partial: `[B, T]` bool, the rows reach a point that is not the end of a game; where `beyond_episode_end` is
            true as well, what would have followed is hidden by a time limit or a cut, and must not be learned.
        candidates: `[B, T, R+1, K, ...]`, the actions that `policy` is over; `()` if those are all there are.
    """

    action: torch.Tensor
    reward: torch.Tensor
    value: torch.Tensor
    policy: torch.Tensor
    beyond_episode_end: torch.Tensor
    game_over: torch.Tensor
    is_partial: torch.Tensor
    candidates: nest.Nest = ()


def episode_end_rows(is_last: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """E: for each row of a block the row at which its episode ends.

    Args:
        is_last: `[B, L]` bool.
        position: `[B, L]` int64, see BatchInfo: it repeats behind the newest stored row.

    Returns:
        `[B, L]` int64, numbers of rows in the block. The block's last row counts as an end.
    """
    length = is_last.shape[1]
    ends = is_last.clone()
    ends[:, :-1] |= position[:, 1:] == position[:, :-1]
    ends[:, -1] = True
    rows = torch.arange(length, device=is_last.device)
    # The nearest end at or after a row is the running minimum from the right.
    return torch.where(ends, rows, length).flip(1).cummin(dim=1).values.flip(1)


def bootstrap_rows(end_row: torch.Tensor, num_steps: int, num_rows: int) -> torch.Tensor:
    """The rows c + m at which n-step returns end: min(c + n, E(c)).

    Args:
        end_row: `[B, L]`, E.
        num_steps: n.
        num_rows: how many of the first rows c are asked for.

    Returns:
        `[B, num_rows]` int64, numbers of rows in the block.
    """
    rows = torch.arange(num_steps, num_steps + num_rows, device=end_row.device)
    return torch.minimum(rows, end_row[:, :num_rows])


def value_targets(
    reward: torch.Tensor,
    discount: torch.Tensor,
    value: torch.Tensor,
    end_row: torch.Tensor,
    num_steps: int,
    gamma: float,
) -> torch.Tensor:
    """n-step returns (Schrittwieser et al. 2020, section 3 and appendix G), 0 where the game is over.

    With m = min(n, E(c) - c) and V(E) = 0 at the end of a game::

        z(c) = sum_{j=1..m} gamma^{j-1} (prod_{i=c+1..c+j-1} discount[i]) reward[c+j]
               + gamma^m (prod_{i=c+1..c+m} discount[i]) V[c+m]

    A game's end inside the n steps ends the sum; a time limit's LAST row is bootstrapped.

    Args:
        reward: `[B, L]`, received on arriving at a row.
        discount: `[B, L]`, the environment's: 0 at the end of a game.
        value: `[B, L]`, V; read at `bootstrap_rows` only.
        end_row: `[B, L]`, E.
        num_steps: n, at least 1.
        gamma: in [0, 1].

    Returns:
        `[B, L - 1]`; what stands within n rows of the block's end looks less than n steps ahead.
    """
    ends = end_row == torch.arange(end_row.shape[1], device=end_row.device)
    value = value.masked_fill(ends & (discount == 0.0), 0.0)
    return n_step_return(reward, discount, value, ends, gamma, num_steps)


def muzero_targets(
    rows: TimeStep,
    end_row: torch.Tensor,
    action_index: torch.Tensor,
    policy: torch.Tensor,
    value: torch.Tensor,
    num_unroll_steps: int,
    num_bootstrap_steps: int,
    gamma: float,
    candidates: nest.Nest = (),
) -> MuzeroTargets:
    """Targets of a block with T = L − R − K starts.

    Args:
        rows: `[B, L]`; observations are not looked at.
        end_row: `[B, L]`, E, from `episode_end_rows`.
        action_index: `[B, L]` int64 in `0 … A−1`, the action that led to each row (`prev_action`); `[B, L, ...]` where
            actions are not one discrete choice.
        policy: `[B, L, A]`, of the stored search.
        value: `[B, L]`, what returns are bootstrapped from; read at `bootstrap_rows` only.
        num_unroll_steps: R.
        num_bootstrap_steps: K, the n of the n-step return.
        gamma: the discount per step.
        candidates: `[B, L, K, ...]`, the actions that `policy` is over; `()` if those are all there are.
    """
    length = rows.reward.shape[1]
    num_starts = length - num_unroll_steps - num_bootstrap_steps
    values = value_targets(rows.reward, rows.discount, value, end_row, num_bootstrap_steps, gamma)
    batch = torch.arange(rows.reward.shape[0], device=rows.reward.device)[:, None, None]
    start = torch.arange(num_starts, device=rows.reward.device)[:, None]
    wanted = start + torch.arange(num_unroll_steps + 1, device=rows.reward.device)
    end = end_row[:, :num_starts, None]
    current = torch.minimum(wanted, end)
    beyond = wanted > end
    return MuzeroTargets(
        action=action_index[batch, current[:, :, 1:]],
        reward=rows.reward[batch, current].masked_fill(beyond, 0.0),
        value=values[batch, current],
        policy=policy[batch, current],
        beyond_episode_end=beyond,
        game_over=(current == end) & (rows.discount[batch, current] == 0.0),
        is_partial=rows.discount[batch[..., 0], current[:, :, -1]] != 0.0,
        candidates=nest.map_structure(lambda leaf: leaf[batch, current], candidates),
    )
