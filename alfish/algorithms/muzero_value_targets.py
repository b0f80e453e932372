"""MuZero's value targets by their settings: which returns, over how many steps, bootstrapped from what."""

import torch

from alfish import nest
from alfish.algorithms.muzero_reanalysis import MONTE_CARLO, Searches
from alfish.algorithms.muzero_targets import (
    Block,
    outcome_values,
    return_values,
    search_values,
    value_behind,
)
from alfish.algorithms.td_horizons import LinearTdStepFunc, MixedValueTarget
from alfish.data_structures import BatchInfo
from alfish.models.mcts_model import MCTSModel
from alfish.ops.block_rows import bootstrap_rows


class ValueTargets:
    """Value targets of the rows of a block. The target network is held by reference.

    n-step returns are bootstrapped from the search of the row at which they end if that is fresh, else from what the
    target network says of it, or without one from the stored search. Monte-Carlo returns of episodes that were cut, or
    are open, are bootstrapped from the search of their last row, the stored one unless the row is among the T + R.

    Args:
        discount: gamma per environment step, in (0, 1].
        predicts_reward: whether the model predicts rewards.
        value_target: "n_step" (that is Monte-Carlo with td_steps of -1), "search", or a MixedValueTarget.
        td_steps: n of segments that are not reanalysed, -1 for Monte-Carlo returns; None if there are none.
        fresh_td_steps: likewise of reanalysed segments.
        full: whether n-step returns of reanalysed segments are bootstrapped from fresh searches everywhere.
        td_steps_function: n by the age of rows; None for the same everywhere.
        target_model: the target network; None if there is none.

    Attributes:
        needs_tail: whether Monte-Carlo returns are among the targets.
        max_steps: how many rows behind the T + R are read; at least one, which tells whether the row before it is the
            newest of its episode.
        max_seen_steps: of how many of these the observation is looked at.
        reads_stored: whether values that were stored with rows are among what the targets are made of.

    Raises:
        ValueError: a setting is out of its range, two do not go together, or one would have no effect.
    """

    def __init__(
        self,
        discount: float,
        predicts_reward: bool,
        value_target: str | MixedValueTarget,
        td_steps: int | None,
        fresh_td_steps: int | None,
        full: bool,
        td_steps_function: LinearTdStepFunc | None,
        target_model: MCTSModel | None,
    ):
        # Of segments that are not reanalysed, and of those that are; None where there are no returns.
        self._steps = (None, None) if value_target == "search" else (td_steps, fresh_td_steps)
        self._sources = (
            _source(self._steps[0], target_model is not None),
            _source(self._steps[1], target_model is not None and not full),
        )
        _check_value_target(value_target)
        if td_steps_function is not None:
            _check_function(td_steps_function, self._steps)
        if full and self._steps[1] in (None, MONTE_CARLO):
            raise ValueError(
                "Reanalysis.full is True, but the value targets of reanalysed segments are not n-step returns, which"
                " alone are bootstrapped behind the rows that are searched anyway; set Reanalysis.full = False"
            )
        if target_model is not None and fresh_td_steps is None and "network" not in self._sources:
            raise ValueError(
                "MuzeroRepresentationImpl.target_update is given, but nothing asks a target network: there is no"
                " reanalysis, and value targets are not n-step returns; set target_update = None (a run that was begun"
                " with a target network cannot go on without; begin a new one with Experiment.initial_weights)"
            )
        self._discount = discount
        self._predicts_reward = predicts_reward
        self._value_target = value_target
        self._function = td_steps_function
        self._target_model = target_model
        lengths = [0 if steps in (None, MONTE_CARLO) else steps for steps in self._steps]
        looks = (self._sources[0] == "network", self._sources[1] == "network" or full)
        self.needs_tail = MONTE_CARLO in self._steps
        self.reads_stored = td_steps is not None and (value_target != "n_step" or self._sources[0] != "network")
        self.max_steps = max(1, *lengths)
        self.max_seen_steps = max(
            length for length, looked in zip((0, *lengths), (True, *looks), strict=True) if looked
        )

    def horizon(self, block: Block, info: BatchInfo, segments: torch.Tensor | None) -> int | torch.Tensor:
        """The n of the returns of each row, L - 1 for Monte-Carlo returns.

        Args:
            block: the rows.
            info: `age` is read for a `td_steps_function`.
            segments: `[n]` int64, which of the batch are reanalysed; None for none.

        Returns:
            One number, or `[B, N]` or `[B, 1]`; 0 if there are no returns.
        """
        old, fresh = (self._lengths(steps, block, info) for steps in self._steps)
        if segments is None or self._steps[0] == self._steps[1]:
            return old
        if self._steps[0] is None:
            return fresh
        batch_size = len(block.end_row)
        chosen = torch.zeros(batch_size, 1, dtype=torch.bool, device=segments.device).index_fill_(0, segments, True)
        return torch.where(chosen, fresh, old)

    def _lengths(self, steps: int | None, block: Block, info: BatchInfo) -> int | torch.Tensor:
        if steps is None or steps == MONTE_CARLO:
            return 0 if steps is None else block.end_row.shape[1] - 1
        return steps if self._function is None else self._function(info.age[:, : block.num_rows], steps)

    def __call__(
        self, block: Block, info: BatchInfo, searches: Searches, horizon: int | torch.Tensor, updates: int
    ) -> torch.Tensor:
        """The targets `[B, N]`.

        Args:
            block: the rows.
            info: `tail` is read for Monte-Carlo returns, `age` for a MixedValueTarget.
            searches: stored or fresh.
            horizon: from `horizon`.
            updates: gradient steps done.
        """
        found = searches.found.value
        if self._value_target == "search":
            values = search_values(block, found)
        else:
            value = self._bootstrap_values(block, info, searches, horizon)
            longest = value.shape[1] if self.needs_tail else self.max_steps
            values = return_values(block, value, horizon, longest, self._discount)
        if isinstance(self._value_target, MixedValueTarget):
            searched = self._value_target.searched(info.age[:, : block.num_rows], updates)
            values = torch.where(searched, search_values(block, found), values)
        return values if self._predicts_reward else outcome_values(block, values)

    def _bootstrap_values(
        self, block: Block, info: BatchInfo, searches: Searches, horizon: int | torch.Tensor
    ) -> torch.Tensor:
        """`[B, L]`, right at the rows where returns end."""
        found = value = searches.found.value
        old, fresh = self._sources
        groups: list[tuple[str, torch.Tensor | None]]
        if searches.segments is None or old == fresh:
            groups = [(old, None)]
        elif searches.others is None:
            groups = [(fresh, None)]
        else:
            groups = [(old, searches.others), (fresh, searches.segments)]
        for source, rows in groups:
            if source == "network":
                value = self._with_network(block, value, rows, bootstrap_rows(block.end_row, horizon, block.num_rows))
                if searches.fresh is not None:
                    value = torch.where(searches.fresh, found, value)
            elif source == "tail":
                behind = value_behind(found, info.tail)
                value = behind if rows is None else value.index_copy(0, rows, behind[rows])
        return value

    def _with_network(
        self, block: Block, value: torch.Tensor, rows: torch.Tensor | None, chosen: torch.Tensor
    ) -> torch.Tensor:
        """`value` `[B, L]` with the target network's of rows `chosen` `[B, N]`, of all segments or those in `rows`."""
        model = self._target_model
        assert model is not None
        if rows is None:
            rows = torch.arange(len(chosen), device=chosen.device)
        else:
            chosen = chosen[rows]
        place = (rows.unsqueeze(1), chosen)
        observation = nest.map_structure(lambda leaf: leaf[place].flatten(0, 1), block.rows.observation)
        network_value = model.value_of(model.predict(model.encode(observation)).value_logits)
        return value.index_put(place, network_value.view_as(chosen))


def _source(steps: int | None, asks_network: bool) -> str:
    """What the returns over so many steps are bootstrapped from."""
    if steps == MONTE_CARLO:
        return "tail"
    return "network" if asks_network and steps is not None else "search"


def _check_value_target(value_target: str | MixedValueTarget) -> None:
    if value_target not in ("n_step", "search") and not isinstance(value_target, MixedValueTarget):
        raise ValueError(
            f"MuzeroRepresentationImpl.value_target is {value_target!r}; expected 'n_step', 'search' or"
            " @MixedValueTarget()"
        )


def _check_function(function: LinearTdStepFunc, all_steps: tuple[int | None, int | None]) -> None:
    if not hasattr(function, "min_td_steps"):
        raise ValueError(
            f"MuzeroRepresentationImpl.td_steps_function is {function!r}; expected None or, in a gin file,"
            " @LinearTdStepFunc() with its parentheses"
        )
    for name, steps in zip(("MuzeroRepresentationImpl.td_steps", "Reanalysis.td_steps"), all_steps, strict=True):
        if steps is not None and steps < function.min_td_steps:
            raise ValueError(
                f"{name} is {steps}, but td_steps_function shortens n-step returns to"
                f" {function.min_td_steps} steps; expected at least that, or td_steps_function = None"
            )
    if all_steps == (None, None):
        raise ValueError(
            "MuzeroRepresentationImpl.td_steps_function shortens n-step returns, but value_target is 'search'; set"
            " td_steps_function = None"
        )
