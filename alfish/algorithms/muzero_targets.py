"""MuZero's training targets: pure functions of one block of rows.

A block is `[B, L]`: T rows that targets start from, R more that they reach, and at least one row after these. E(p) is
the row at which the episode of row p ends: its LAST row, or the newest stored row if it is still open. For the start p
and k = 0 … R let c = min(p + k, E(p)); so c is among the block's first N = T + R rows. d is the environment's discount,
received on arriving at a row as the reward is.
"""

from typing import NamedTuple

import torch

from alfish import nest
from alfish.data_structures import Tail, TimeStep
from alfish.ops.block_rows import bootstrap_rows, episode_end_rows, take_rows
from alfish.ops.returns import bootstrapped_return


class Block(NamedTuple):
    """Rows, and what is known of their places.

    Attributes:
        rows: `[B, L]`; the observation may have fewer, but at least as many as are read.
        end_row: `[B, L]` int64, E.
        over: `[B, L]` bool, the game is over: c is E(c) and d[c] = 0. A row before the end of its episode may have a
            discount of 0 as well (a lost life); there the game goes on. While such a row is the newest one of an open
            episode it is E, and counts as over: nothing stored tells what follows.
        num_starts: T.
        num_rows: N = T + R.
    """

    rows: TimeStep
    end_row: torch.Tensor
    over: torch.Tensor
    num_starts: int
    num_rows: int


class MuzeroTargets(NamedTuple):
    """Targets `[B, T, R+1]`, except where said.

    Attributes:
        action: `[B, T, R, ...]`, the action that led to row min(p + k + 1, E(p)).
        reward: received on arriving at c; 0 beyond the end of the episode.
        value: `return_values`, `search_values` or a mixture; `outcome_values` if rewards are not predicted.
        policy: `[B, T, R+1, A]`, the search policy of c; `()` if no policy is trained.
        beyond_episode_end: bool, p + k > E(p).
        game_over: bool, c is E(p) and its discount is 0: no reward can follow.
        is_partial: `[B, T]` bool, the rows reach a point that is not the end of a game; where `beyond_episode_end` is
            true as well, what would have followed is hidden by a time limit or a cut, and must not be learned.
        candidates: `[B, T, R+1, K, ...]`, the actions that `policy` is over; `()` if those are all there are.
        observation: `[B, T, R, ...]`, of the rows c for k = 1 … R; `()` if nobody asked for it.
    """

    action: torch.Tensor
    reward: torch.Tensor
    value: torch.Tensor
    policy: nest.Nest
    beyond_episode_end: torch.Tensor
    game_over: torch.Tensor
    is_partial: torch.Tensor
    candidates: nest.Nest = ()
    observation: nest.Nest = ()


def make_block(rows: TimeStep, position: torch.Tensor, num_starts: int, num_unroll_steps: int) -> Block:
    """The block of rows `[B, L]`, L > T + R, with positions as in BatchInfo, for T starts and R unroll steps."""
    end_row = episode_end_rows(rows.is_last(), position)
    is_end = end_row == torch.arange(end_row.shape[1], device=end_row.device)
    return Block(rows, end_row, is_end & (rows.discount == 0.0), num_starts, num_starts + num_unroll_steps)


def value_behind(value: torch.Tensor, tail: Tail) -> torch.Tensor:
    """The values from which Monte-Carlo returns are bootstrapped.

    Where the episode goes on behind the block's last row l, its return from there takes the place of l's value::

        tail.reward + tail.discount V[E(l)]

    with the value that was stored with E(l). It counts where the episode was cut, or is open; at the end of a game the
    tail's discount is 0.

    Args:
        value: `[B, L]`, V.
        tail: `[B]`, from l on.

    Returns:
        `[B, L]`.
    """
    behind = torch.addcmul(tail.reward, tail.discount, tail.rollout_info.value)
    return torch.cat((value[:, :-1], behind.unsqueeze(1)), dim=1)


def return_values(
    block: Block, value: torch.Tensor, horizon: int | torch.Tensor, max_horizon: int, gamma: float
) -> torch.Tensor:
    """The n-step returns (Schrittwieser et al. 2020, section 3 and appendix G).

    With m = min(n, E(c) - c)::

        z(c) = sum_{j=1..m} gamma^{j-1} (prod_{i=c..c+j-1} d[i]) reward[c+j] + gamma^m (prod_{i=c..c+m} d[i]) V[c+m]

    A game's end inside the n steps ends the sum; a time limit's LAST row, and the newest row of an open episode, are
    bootstrapped. Monte-Carlo returns are those of n >= L - 1, with V from `value_behind`.

    Args:
        block: the rows.
        value: `[B, L]`, V; read at `bootstrap_rows` only.
        horizon: n, at least 0; one number, or one for each row, `[B, N]` or `[B, 1]` int64.
        max_horizon: at least 1 and at least all of `horizon`; more than L - 1 costs no more than that.
        gamma: in [0, 1].

    Returns:
        `[B, N]`; 0 where the game is over.
    """
    rows, num_rows = block.rows, block.num_rows
    steps = bootstrap_rows(block.end_row, horizon, num_rows) - torch.arange(num_rows, device=value.device)
    max_steps = min(max_horizon, value.shape[1] - 1)
    return rows.discount[:, :num_rows] * bootstrapped_return(rows.reward, rows.discount, value, steps, gamma, max_steps)


def search_values(block: Block, value: torch.Tensor) -> torch.Tensor:
    """The value that a search found for each row (Wang et al. 2024, EfficientZero V2): z(c) = d[c] V[c].

    Args:
        block: the rows.
        value: `[B, L]`, V.

    Returns:
        `[B, N]`; 0 where the game is over.
    """
    return block.rows.discount[:, : block.num_rows] * value[:, : block.num_rows]


def outcome_values(block: Block, values: torch.Tensor) -> torch.Tensor:
    """Value targets `[B, N]` of a model that predicts no rewards, for games in which only the last step pays.

    Where the game is over, the value is not 0 but the reward received on arriving there, so that a search sees the
    outcome in the value of where it ends.
    """
    return torch.where(block.over[:, : block.num_rows], block.rows.reward[:, : block.num_rows], values)


def block_targets(
    block: Block,
    values: torch.Tensor,
    policy: nest.Nest = (),
    candidates: nest.Nest = (),
    with_observation: bool = False,
) -> MuzeroTargets:
    """Lays what is to be learned of single rows out along the unrolls from the T starts.

    Args:
        block: the rows; `prev_action` as the model numbers actions.
        values: `[B, N]`, the value targets.
        policy: `[B, N, A]`, or with more rows; `()` for none.
        candidates: `[B, N, K, ...]`, or with more rows, the actions that `policy` is over; `()` if those are all.
        with_observation: whether observations are wanted.
    """
    rows, num_starts = block.rows, block.num_starts
    starts = torch.arange(num_starts, device=values.device).unsqueeze(1)
    wanted = starts + torch.arange(block.num_rows - num_starts + 1, device=values.device)
    end = block.end_row[:, :num_starts].unsqueeze(2)
    current = torch.minimum(wanted, end)
    beyond = wanted > end
    later = current[:, :, 1:]
    observation = rows.observation if with_observation else ()
    return MuzeroTargets(
        action=take_rows(rows.prev_action, later),
        reward=take_rows(rows.reward, current).masked_fill(beyond, 0.0),
        value=take_rows(values, current),
        policy=nest.map_structure(lambda leaf: take_rows(leaf, current), policy),
        beyond_episode_end=beyond,
        game_over=take_rows(block.over, current),
        is_partial=take_rows(rows.discount, current[:, :, -1]) != 0.0,
        candidates=nest.map_structure(lambda leaf: take_rows(leaf, current), candidates),
        observation=nest.map_structure(lambda leaf: take_rows(leaf, later), observation),
    )
