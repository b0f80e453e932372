"""What sampled rows become: the settings of MuZero's targets, and the searches and networks that they ask."""

import math

import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.muzero_reanalysis import (
    Reanalysis,
    Reanalyzer,
    Searches,
    Shown,
    check_td_steps,
    found_in,
    only_latent,
)
from alfish.algorithms.muzero_targets import Block, MuzeroTargets, block_targets, make_block
from alfish.algorithms.muzero_value_targets import ValueTargets
from alfish.algorithms.td_horizons import LinearTdStepFunc, MixedValueTarget
from alfish.data_structures import BatchInfo, Progress, RowsNeeded, TailNeeded, TimeStep
from alfish.models.mcts_model import MCTSModel
from alfish.ops.masking import masked_mean
from alfish.ops.reward_transforms import RewardTransform, transformed_rewards
from alfish.ops.sampled_policies import SampledPolicy


class TargetMaker:
    """Makes MuzeroTargets of sampled blocks. Messages name the settings as those of MuzeroRepresentationImpl.

    A plain object: models and algorithms are held by reference; their owner registers, saves and moves them.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: of the environment.
        actions: the family of the model's policy.
        num_unroll_steps: R, at least 1.
        td_steps: the n of n-step returns, at least 1; -1 for Monte-Carlo returns.
        discount: gamma per environment step, in (0, 1].
        predicts_reward: whether the model predicts rewards; if not, the value at the end of a game is its last reward.
        target_model: what n-step returns are bootstrapped from and reanalysis searches; None bootstraps from the values
            of stored searches.
        value_target: "n_step" (that is Monte-Carlo with td_steps = -1), "search", or a MixedValueTarget.
        td_steps_function: n by the age of rows; None for the same everywhere.
        reward_transform: applied to the stored rewards before anything else; None leaves them.
        random_action_after_episode_end: whether actions beyond an episode's end are drawn, instead of the last again.
        train_policy: False leaves `MuzeroTargets.policy` and `.candidates` empty; stored rows need no policy then.
        needs_observations: whether `MuzeroTargets.observation` is wanted (consistency loss).
        reanalysis: None, or a ratio of 0, for none; needs a `target_model`.

    Raises:
        ValueError: a setting is out of its range, two do not go together, or one would have no effect.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        actions: SampledPolicy,
        num_unroll_steps: int,
        td_steps: int,
        discount: float,
        predicts_reward: bool = True,
        target_model: MCTSModel | None = None,
        value_target: str | MixedValueTarget = "n_step",
        td_steps_function: LinearTdStepFunc | None = None,
        reward_transform: RewardTransform | None = None,
        random_action_after_episode_end: bool = False,
        train_policy: bool = True,
        needs_observations: bool = False,
        reanalysis: Reanalysis | None = None,
    ):
        check_td_steps("MuzeroRepresentationImpl.td_steps", td_steps)
        _check_called(reanalysis, reward_transform)
        if reanalysis is not None and reanalysis.ratio == 0.0:
            reanalysis = None
        self._actions = actions
        self._num_unroll_steps = num_unroll_steps
        self._discount = discount
        self._target_model = target_model
        self._reward_transform = reward_transform
        self._random_action_after_episode_end = random_action_after_episode_end
        self._train_policy = train_policy
        self._needs_observations = needs_observations
        self._asks_acting_algorithm = reanalysis is not None and reanalysis.algorithm is None
        self._reanalyzer: Reanalyzer | None = None
        fresh_td_steps, full = None, False
        if reanalysis is not None:
            if target_model is None:
                raise ValueError(
                    "MuzeroRepresentationImpl.reanalysis searches the target network, but target_update is None; set"
                    " target_update = @TargetUpdate()"
                )
            fresh_td_steps, full = td_steps if reanalysis.td_steps is None else reanalysis.td_steps, reanalysis.full
            self._reanalyzer = Reanalyzer(
                reanalysis, observation_spec, action_spec, target_model, discount, train_policy
            )
        self._values = ValueTargets(
            discount,
            predicts_reward,
            value_target,
            None if reanalysis is not None and reanalysis.ratio == 1.0 else td_steps,
            fresh_td_steps,
            full,
            td_steps_function,
            target_model,
        )
        self._updates = 0
        self._rows_needed = self._reckon_rows_needed()

    def rows_needed(self) -> RowsNeeded:
        """The rows behind the segment that targets read: R, and then as far as returns look ahead, at least one."""
        return self._rows_needed

    def _reckon_rows_needed(self) -> RowsNeeded:
        unrolled, values = self._num_unroll_steps, self._values
        seen = 0
        if values.max_seen_steps:
            seen = unrolled + values.max_seen_steps
        elif self._needs_observations or self._reanalyzer is not None:
            seen = unrolled
        tail = TailNeeded(self._discount, self._reward_transform) if values.needs_tail else None
        return RowsNeeded(future=unrolled + values.max_steps, future_observations=seen, tail=tail)

    def use_acting_algorithm(self, algorithm: Algorithm, shown: Shown = only_latent) -> None:
        """Hands in the algorithm over latents, whose values are stored, also for `Reanalysis.algorithm = None`.

        Args:
            algorithm: that acts over latents.
            shown: what it sees of a row.

        Raises:
            ValueError: it cannot search rows that do not follow each other, or its values are not on the scale of the
                transformed rewards.
        """
        if self._reward_transform is not None and (self._asks_acting_algorithm or self._values.reads_stored):
            raise ValueError(
                f"MuzeroRepresentationImpl.reward_transform is {self._reward_transform!r}, but the values of "
                f"{type(algorithm).__name__}, which are among its targets, are of rewards as they are stored; set "
                "reward_transform = None, or bootstrap from a target network alone: target_update = @TargetUpdate(), "
                "value_target = 'n_step', td_steps of at least 1 and no Reanalysis.algorithm = None"
            )
        if self._reanalyzer is not None:
            self._reanalyzer.use_acting_algorithm(algorithm, shown)

    def after_train_iter(self, progress: Progress) -> None:
        """To be called from the owner's hook of that name: schedules, and when mixed targets turn to searches."""
        self._updates = progress.updates
        if self._reanalyzer is not None:
            self._reanalyzer.after_train_iter(progress)

    @torch.no_grad()
    def __call__(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, MuzeroTargets, dict[str, torch.Tensor]]:
        """Targets of a block, without gradient.

        Args:
            root_inputs: `[B, T + future]` rows (`[B, T + future_observations]` of the observation).
            rollout_info: `[B, T + future]`; `.value`, and `.policy` and `.candidates` if the policy is trained.
            batch_info: `position`, and `age` and `tail` where settings ask for them.

        Returns:
            The first T rows, with transformed rewards; the targets `[B, T, ...]`; scalars to report: see `_report`.

        Raises:
            ValueError: what is stored lacks a value or a policy, or reanalysis says it otherwise.
        """
        num_starts = root_inputs.reward.shape[1] - self._rows_needed.future
        if self._target_model is not None and self._target_model.training:
            self._target_model.eval()  # targets must not depend on what else is in the batch
        collected = make_block(root_inputs, batch_info.position, num_starts, self._num_unroll_steps)
        block = collected._replace(rows=self._transformed(root_inputs))
        stored = found_in(rollout_info, self._train_policy, "what is stored with the rows")
        searches = Searches(stored) if self._reanalyzer is None else self._reanalyzer.draw(stored)
        horizon = self._values.horizon(block, batch_info, searches.segments)
        if self._reanalyzer is not None:
            searches = self._reanalyzer.search(collected, searches, horizon)
        values = self._values(block, batch_info, searches, horizon, self._updates)
        found = searches.found
        targets = block_targets(block, values, found.policy, found.candidates, self._needs_observations)
        if self._random_action_after_episode_end:
            targets = targets._replace(action=self._random_beyond_end(targets))
        inputs = root_inputs._replace(reward=block.rows.reward)
        inputs = nest.map_structure(lambda leaf: leaf[:, :num_starts], inputs)
        return inputs, targets, _report(block, batch_info, searches)

    def _transformed(self, rows: TimeStep) -> TimeStep:
        """The rows with transformed rewards and the model's actions.

        FIRST rows hold 0 where an action is wanted, which need not be one of the actions. The loss masks what becomes
        of it.
        """
        if self._reward_transform is not None:
            rows = rows._replace(reward=transformed_rewards(rows.reward, self._reward_transform))
        return rows._replace(prev_action=self._actions.from_environment(rows.prev_action))

    def _random_beyond_end(self, targets: MuzeroTargets) -> torch.Tensor:
        """The actions `[B, T, R, ...]`, with draws from all actions beyond the end of the episode."""
        beyond, action = targets.beyond_episode_end[..., 1:], targets.action
        if self._actions.num_choices is not None:
            drawn = torch.randint_like(action, self._actions.num_choices)
        else:
            parameters = torch.zeros((1, self._actions.num_parameters), device=beyond.device)
            drawn = self._actions.sample(parameters, beyond.numel(), math.inf).view_as(action)
        return torch.where(beyond.view(*beyond.shape, *[1] * (action.dim() - beyond.dim())), drawn, action)


def _check_called(reanalysis: Reanalysis | None, reward_transform: RewardTransform | None) -> None:
    if reanalysis is not None and not isinstance(reanalysis, Reanalysis):
        raise ValueError(
            f"MuzeroRepresentationImpl.reanalysis is {reanalysis!r}; expected None or, in a gin file, @Reanalysis()"
            " with its parentheses"
        )
    if isinstance(reward_transform, type):
        raise ValueError(
            f"MuzeroRepresentationImpl.reward_transform is {reward_transform!r}; expected None or a function, or what a"
            " class makes: in a gin file, @SignReward() with its parentheses"
        )


def _report(block: Block, info: BatchInfo, searches: Searches) -> dict[str, torch.Tensor]:
    """Scalars: where the searches come from that a batch is learned from.

    "target/reanalyzed" is the share of segments that were reanalysed; "target/staleness" how old the stored searches of
    the others are on average, in environment steps of the run, 0 if there are no others.
    """
    age, segments = info.age, searches.segments
    num_segments = 0 if segments is None else len(segments)
    report = {"target/reanalyzed": torch.full((), num_segments / len(block.end_row), device=block.end_row.device)}
    if isinstance(age, torch.Tensor):
        last = block.end_row[:, block.num_starts - 1 : block.num_starts]
        is_stored = torch.arange(block.num_rows, device=last.device) <= last
        if segments is not None:
            is_stored = is_stored.index_fill(0, segments, False)
        report["target/staleness"] = masked_mean(age[:, : block.num_rows].float(), is_stored)
    return report
