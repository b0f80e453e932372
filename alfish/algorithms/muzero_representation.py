"""The learner of a MuZero model: the hooks that join its targets, its unroll, its losses and its report."""

import contextlib
import copy
import math
from collections.abc import Callable, Sequence
from typing import Self

import gin
import torch

from alfish import gin_config, nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.muzero_losses import UnrollInfo, loss_masks, muzero_losses
from alfish.algorithms.muzero_priorities import (
    PriorityFunction,
    PriorityName,
    make_priority_function,
    segment_priority,
)
from alfish.algorithms.muzero_reanalysis import Reanalysis, Shown, found_in, only_latent
from alfish.algorithms.muzero_report import muzero_report, priority_report
from alfish.algorithms.muzero_target_maker import TargetMaker
from alfish.algorithms.muzero_targets import MuzeroTargets
from alfish.algorithms.td_horizons import LinearTdStepFunc, MixedValueTarget
from alfish.checks import check_at_least
from alfish.data_structures import AlgStep, BatchInfo, Experience, LossInfo, Progress, RowsNeeded, TimeStep
from alfish.models.mcts_model import MCTSModel
from alfish.models.sampled_model import sampled_policy_of
from alfish.models.stochastic_mcts_model import StochasticMCTSModel
from alfish.models.stochastic_unroll import StochasticUnrolled, stochastic_unroll
from alfish.models.unroll import Unrolled, unroll
from alfish.networks.augmentation import MakesAugmentation, make_augmentation
from alfish.networks.latents import flat_latents
from alfish.ops.target_updates import TargetUpdate

_WITH_CHANCE = "MuzeroRepresentationImpl.model = @StochasticMCTSModel"
_GIVES = {
    "policy": "MuzeroRepresentationImpl.train_policy = True",
    "consistency": "MuzeroRepresentationImpl.consistency = @SimSiamHeads",
    "chance": _WITH_CHANCE,
    "commitment": _WITH_CHANCE,
}
"""What to set for losses that not every model is trained by."""

_DEFAULTS = {"policy": 1.0, "consistency": 2.0, "chance": 1.0, "commitment": 0.25}
"""Their weights where none is given."""

_WEIGHTS = ("value", "reward", "policy", "game_over", "consistency", "chance", "commitment")


@gin.configurable
class MuzeroRepresentationImpl(Algorithm):
    """Trains a model so that, unrolled from a latent, it predicts rewards, values and search policies.

    Schrittwieser et al. 2020, "Mastering Atari, Go, chess and shogi by planning with a learned model", section 3 and
    appendix G; Ye et al. 2021 (EfficientZero), section 4.1, for the consistency loss; Antonoglou et al. 2022, section
    4, for models with chance outcomes. As a representation, its output is the latent of an observation.

    Which heads are trained beside the value follows from the model: the reward's and that of the game's end where it
    has them (`SimpleMCTSModel.reward_support`, `.predict_game_over`), the value prefix of a ValuePrefixMCTSModel, the
    chance outcomes and afterstates of a StochasticMCTSModel.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A, or what the model has a policy for.
        model: makes the model, given `observation_spec` and `action_spec`.
        num_unroll_steps: R, at least 1.
        td_steps: K, the n of the n-step value target, at least 1; -1 for Monte-Carlo returns.
        discount: γ per environment step, in (0, 1].
        recurrent_gradient_scale: what is left of the gradient at the entrance of each dynamics step.
        value_loss_weight: of the value loss.
        reward_loss_weight: of the reward loss.
        policy_loss_weight: of the policy loss; None for 1. Goes with `train_policy`.
        game_over_loss_weight: of the loss of the game-over head.
        consistency_loss_weight: of the consistency loss; None for 2, as EfficientZero has it. Goes with `consistency`.
        chance_loss_weight: of the outcomes and values that afterstates predict; None for 1. Goes with a
            StochasticMCTSModel.
        commitment_loss_weight: of the distance of the chance encoder's output from its code; None for 0.25. Goes with
            the same.
        reward_transform: applied to the stored rewards before anything else, for example `@SignReward()`; None
            leaves them.
        target_update: how a target network follows the model; the value targets are then bootstrapped from what it says
            of the row at which the n steps end. None bootstraps from the value that the search found when the row was
            collected, which costs nothing but is as old as the row.
        random_action_after_episode_end: if True, the actions unrolled beyond an episode's end are drawn at random
            instead of repeating its last action, so that a game's end is learned to be absorbing whatever is done.
        value_target: "n_step", "search" (the value that a search found for the row itself) or `@MixedValueTarget()`.
        td_steps_function: lets K fall with the age of a row, `@LinearTdStepFunc()`; None for the same K everywhere.
        reanalysis: searches sampled rows anew for their targets, `@Reanalysis()`; needs `target_update`.
        train_policy: False leaves the policy head as it is, where only the latent is wanted: then what is stored with
            the rows need not hold a policy.
        consistency: makes the heads of a self-supervised loss between the latents that the dynamics predict and the
            encodings of what was then observed, `@SimSiamHeads`, given the number of a latent's elements; None for no
            such loss.
        augmentation: `@RandomShift`, or several such constructors in a tuple: changes the observations that are encoded
            in `train_step`, with draws of their own for the first ones and for those of the consistency loss. Targets
            are made of what was observed.
        priority_function: what replay priorities are made of: "value_error", "loss" or a function (see
            `muzero_priorities.py`). None makes none.
        mixed_precision: runs the model in bfloat16 in `train_step` (torch.autocast); losses and targets are float32.
        report_interval: updates from one report (`muzero_report.py`) to the next; the losses are reported in each.

    Raises:
        ValueError: a number is out of range, or two choices do not go together.
    """

    trains_on_last_rows = True
    priority_settings = (
        "MuzeroRepresentationImpl.priority_function = 'value_error'",
        "MuzeroRepresentationImpl.priority_function = None",
    )

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        model: Callable[..., MCTSModel] = gin.REQUIRED,
        num_unroll_steps: int = gin.REQUIRED,
        td_steps: int = gin.REQUIRED,
        discount: float = gin.REQUIRED,
        recurrent_gradient_scale: float = 0.5,
        value_loss_weight: float = 0.25,
        reward_loss_weight: float = 1.0,
        policy_loss_weight: float | None = None,
        game_over_loss_weight: float = 1.0,
        consistency_loss_weight: float | None = None,
        chance_loss_weight: float | None = None,
        commitment_loss_weight: float | None = None,
        reward_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        target_update: TargetUpdate | None = None,
        random_action_after_episode_end: bool = False,
        value_target: str | MixedValueTarget = "n_step",
        td_steps_function: LinearTdStepFunc | None = None,
        reanalysis: Reanalysis | None = None,
        train_policy: bool = True,
        consistency: Callable[[int], torch.nn.Module] | None = None,
        augmentation: MakesAugmentation | Sequence[MakesAugmentation] | None = None,
        priority_function: PriorityName | PriorityFunction | None = None,
        mixed_precision: bool = False,
        report_interval: int = 10,
    ):
        super().__init__(observation_spec, action_spec)
        check_at_least("MuzeroRepresentationImpl.num_unroll_steps", num_unroll_steps, 1)
        check_at_least("MuzeroRepresentationImpl.report_interval", report_interval, 1)
        _check_settings(discount, recurrent_gradient_scale)
        self.discount = discount
        self.model = model(observation_spec, action_spec)
        has_chance = self.model.num_outcomes > 0
        of_heads = (value_loss_weight, reward_loss_weight, policy_loss_weight, game_over_loss_weight)
        of_others = (consistency_loss_weight, chance_loss_weight, commitment_loss_weight)
        has_loss = (True, True, train_policy, True, consistency is not None, has_chance, has_chance)
        self._weights = _checked_weights((*of_heads, *of_others), has_loss)
        self._actions = sampled_policy_of(self.model, action_spec)
        self._gradient_scale = recurrent_gradient_scale
        self._train_policy = train_policy
        self._priority_function = None if priority_function is None else make_priority_function(priority_function)
        self.gives_priorities = priority_function is not None
        self._augment = None if augmentation is None else make_augmentation(augmentation, observation_spec)
        self._consistency = None if consistency is None else _make_heads(consistency, self._latent_size())
        self._mixed_precision = mixed_precision
        self._report_interval = report_interval
        self.reanalyzes = reanalysis is not None and reanalysis.ratio > 0.0
        self._target_update = target_update
        self._target_model = None if target_update is None else copy.deepcopy(self.model).requires_grad_(False)
        needs_observations = consistency is not None or has_chance
        about_rows = (observation_spec, action_spec, self._actions, num_unroll_steps, td_steps, discount)
        about_values = (self.model.predicts_reward, self._target_model, value_target, td_steps_function)
        about_targets = (reward_transform, random_action_after_episode_end, train_policy, needs_observations)
        self._target_maker = TargetMaker(*about_rows, *about_values, *about_targets, reanalysis)
        self._target_report: dict[str, torch.Tensor] = {}
        self._updates: int | None = None

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._target_model is not None:
            self._target_model.eval()  # its targets must not depend on what else is in the batch
        return self

    def use_acting_algorithm(self, algorithm: Algorithm, shown: Shown = only_latent) -> None:
        """Hands in the algorithm that acts over what is `shown`, for a `Reanalysis` whose `algorithm` is None."""
        self._target_maker.use_acting_algorithm(algorithm, shown)

    def check_experience(self, row_specs: Experience) -> None:
        found_in(specs.zeros(row_specs.rollout_info), self._train_policy, "what is stored with the rows")

    def rows_needed(self) -> RowsNeeded:
        return self._target_maker.rows_needed()

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return AlgStep(self.model.state_of(self.model.encode(time_step.observation)), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self.predict_step(time_step, state)

    def preprocess_experience(
        self, root_inputs: TimeStep, rollout_info: nest.Nest, batch_info: BatchInfo
    ) -> tuple[TimeStep, MuzeroTargets]:
        # The report waits here for the loss's; of a batch that is made ahead of its update it tells as much.
        inputs, targets, self._target_report = self._target_maker(root_inputs, rollout_info, batch_info)
        return inputs, targets

    def train_step(self, inputs: TimeStep, state: nest.Nest, rollout_info: MuzeroTargets) -> AlgStep:
        targets = rollout_info
        num_rows, num_steps = targets.reward.shape
        observation, following = self._augmented(inputs.observation), None
        if nest.leaves(targets.observation):
            following = self._augmented(nest.map_structure(lambda leaf: leaf.flatten(0, 1), targets.observation))
        norm = torch.zeros(num_steps, device=targets.reward.device) if self._report_is_due() else None
        consistency: nest.Nest = ()
        with self._precision(targets.reward.device):
            unrolled = self._unrolled(observation, following, targets.action, norm)
            if self._consistency is not None:
                consistency = self._consistency_loss(unrolled, following).view(num_rows, num_steps - 1)
        if self._mixed_precision:
            unrolled = nest.map_structure(lambda leaf: leaf.float() if leaf.is_floating_point() else leaf, unrolled)
        gradient_norm = () if norm is None else norm.expand(num_rows, num_steps)
        return AlgStep((), state, UnrollInfo(unrolled, targets, consistency, gradient_norm))

    def calc_loss(self, info: UnrollInfo) -> LossInfo:
        """The weighted sum of all losses over k = 0 … R, `[B, T]`: see `muzero_losses`."""
        masks = loss_masks(info.targets)
        losses = muzero_losses(self.model, self._actions, info, masks, self._train_policy)
        loss = torch.stack([part * self._weights[name] for name, part in losses.items()]).sum(0)
        extra = {f"loss/{name}": part.detach() for name, part in losses.items()}
        report_is_due = self._report_is_due()
        if report_is_due:
            extra |= muzero_report(self.model, self._actions, info, masks, self._train_policy) | self._target_report
        if self._priority_function is None:
            return LossInfo(loss, extra)
        priority = segment_priority(self._priority_function, self.model, info, loss)
        return LossInfo(loss, extra | priority_report(priority) if report_is_due else extra, priority)

    def after_update(self, progress: Progress) -> None:
        self._updates = progress.updates
        if self._target_model is not None and self._target_update is not None:
            self._target_update(self._target_model, self.model, progress.updates)

    def after_train_iter(self, progress: Progress) -> None:
        self._target_maker.after_train_iter(progress)
        if self._updates is None:  # a run that begins, or is resumed; reports come at the same updates either way
            self._updates = progress.updates

    def _report_is_due(self) -> bool:
        return (self._updates or 0) % self._report_interval == 0

    def _augmented(self, observation: nest.Nest) -> nest.Nest:
        return observation if self._augment is None else self._augment(observation)

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if self._mixed_precision else contextlib.nullcontext()

    def _unrolled(
        self, observation: nest.Nest, following: nest.Nest, action: torch.Tensor, gradient_norm: torch.Tensor | None
    ) -> Unrolled | StochasticUnrolled:
        """Unrolls along actions `[N, R]`; `following` are the R observations `[N * R, ...]` after each of the first."""
        if not isinstance(self.model, StochasticMCTSModel):
            return unroll(self.model, observation, action, self._gradient_scale, gradient_norm)

        def joined(first: torch.Tensor, later: torch.Tensor) -> torch.Tensor:
            return torch.cat((first.unsqueeze(1), later.unflatten(0, (len(first), -1))), dim=1)

        seen = nest.map_structure(joined, observation, following)
        return stochastic_unroll(self.model, seen, action, self._gradient_scale, gradient_norm)

    def _consistency_loss(self, unrolled: Unrolled | StochasticUnrolled, following: nest.Nest) -> torch.Tensor:
        """The loss `[N * R]` of all latents but the first against encodings of the observations `[N * R, ...]`."""
        assert self._consistency is not None
        predicted = nest.map_structure(lambda leaf: leaf[:, 1:].flatten(0, 1), self.model.state_of(unrolled.latent))
        with torch.no_grad():
            observed = self.model.state_of(self.model.encode(following))
        return self._consistency(flat_latents(predicted), flat_latents(observed))

    @torch.no_grad()
    def latent_spec(self) -> nest.Nest:
        """The spec of a latent, found by encoding a row of zeros."""
        training = self.model.training
        self.model.eval()  # a row of zeros must not enter the statistics of batch normalisation
        latent = self.model.state_of(self.model.encode(specs.zeros(self.observation_spec, (1,))))
        self.model.train(training)
        return specs.spec_of(latent, outer_dims=1)

    def _latent_size(self) -> int:
        return sum(math.prod(leaf.shape) for leaf in nest.leaves(self.latent_spec()))


def _checked_weights(weights: Sequence[float | None], has_loss: Sequence[bool]) -> dict[str, float]:
    """The weights by the names of `_WEIGHTS`."""
    named = zip(_WEIGHTS, weights, has_loss, strict=True)
    checked = {name: _weight_of(name, weight, given) for name, weight, given in named}
    for name, weight in checked.items():
        if not 0.0 <= weight < math.inf:
            raise ValueError(
                f"MuzeroRepresentationImpl.{name}_loss_weight is {weight}; it must be a finite number of at least 0"
            )
    return checked


def _weight_of(name: str, weight: float | None, has_loss: bool) -> float:
    if weight is not None and not has_loss:
        raise ValueError(
            f"MuzeroRepresentationImpl.{name}_loss_weight is {weight}, but there is no {name} loss; set {_GIVES[name]},"
            " or leave the weight out"
        )
    if weight is None and name not in _DEFAULTS:
        raise ValueError(f"MuzeroRepresentationImpl.{name}_loss_weight is None; expected a number of at least 0")
    return _DEFAULTS[name] if weight is None else weight


def _make_heads(consistency: Callable[[int], torch.nn.Module], latent_size: int) -> torch.nn.Module:
    try:
        return consistency(latent_size)
    except (AttributeError, TypeError, ValueError) as error:
        name = getattr(consistency, "__name__", str(consistency))
        raise ValueError(
            f"MuzeroRepresentationImpl.consistency is {name}, which cannot be made for latents of {latent_size} "
            f"elements ({gin_config.translate_error(error)}); expected what takes their number, such as @SimSiamHeads"
        ) from error


def _check_settings(discount: float, recurrent_gradient_scale: float) -> None:
    if not 0.0 < discount <= 1.0:
        raise ValueError(f"MuzeroRepresentationImpl.discount is {discount}; it must be in (0, 1]")
    if not 0.0 <= recurrent_gradient_scale <= 1.0:
        raise ValueError(
            f"MuzeroRepresentationImpl.recurrent_gradient_scale is {recurrent_gradient_scale}; it must be in [0, 1]"
        )
