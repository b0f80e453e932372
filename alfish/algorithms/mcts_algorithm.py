"""Acting by tree search over a learned model."""

from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.checks import check_at_least
from alfish.data_structures import AlgStep, Progress, TimeStep
from alfish.mcts.cuda_graphs import SearchGraphs
from alfish.mcts.proposals import ProposalSettings, spread_policy, take_candidates
from alfish.mcts.records import Model, RetainedTrees, RootNode
from alfish.mcts.search import search
from alfish.mcts.search_policies import PolicyOutput, PuctPolicy, SearchPolicy
from alfish.mcts.subtree import reroot
from alfish.models.mcts_model import MCTSModel
from alfish.models.sampled_model import SampledModel, keep_candidates, sampled_policy_of
from alfish.models.search_model import SearchableModel, SearchModel
from alfish.ops.schedules import Schedule, as_schedule


class SearchInfo(NamedTuple):
    """What a search leaves in the replay buffer. Sampled blocks have `[B, L]` rows of it.

    Attributes:
        policy: `[B, A]`, the improved policy; of other actions than one discrete choice `[B, K]`, over candidates.
        value: `[B]`, of the root.
        candidates: `[B, K, ...]`, the actions that `policy` is over; `()` if those are all there are.
    """

    policy: torch.Tensor
    value: torch.Tensor
    candidates: nest.Nest = ()


_DEFAULT_POLICY = PuctPolicy()


@gin.configurable
class MCTSAlgorithm(Algorithm):
    """Answers each row by a tree search over a model (Schrittwieser et al. 2020, appendix B).

    It has no loss of its own: something else trains the model. What `rollout_step` stores is a SearchInfo.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A; with `proposals`, any that the model has a policy for.
        model: what is searched.
        discount: γ per environment step, the one that the model's values are learned with.
        num_simulations: of a search while collecting, at least 0; with 0 the model's policy acts.
        num_evaluation_simulations: of a search in evaluation and play; None takes `num_simulations`.
        search_policy: noise, search and what is made of it: `@PuctPolicy()`, `@GumbelPolicy()` or your own.
        temperature: the action is drawn in proportion to visits ** (1 / temperature) while collecting; a number, or a
            schedule over the run. 0 takes the most visited action, as evaluation and play do.
        greedy_after_moves: from this step of an episode on the temperature is 0; None never.
        search_model: makes the functions that the search calls from `model` and `discount`: `@SearchModel`, with
            `SearchModel.players = 2` for games of two, `@StochasticSearchModel`, or `@SimulatorSearchModel`.
        legal_mask_key: where the observation is a dict, the entry `[B, A]` that is nonzero for legal actions. The model
            sees the whole observation. None: all actions are legal.
        search_graphs: keeps the trees of a run on a GPU there, and each kind of search as one CUDA graph; None keeps
            trees in host memory. On the CPU it changes nothing.
        proposals: draws candidate actions in each node, `@ProposalSettings()`; None searches all actions.
        reuse_trees: if True the next search of an episode goes on with the tree behind the action that was taken. The
            rows of one call must then be the steps after those of the call before, environment by environment; so it
            is for `greedy_after_moves`.
        max_retained_nodes: how many nodes of a tree are reused; a tree of more begins anew, so that trees do not grow
            for ever where one move after the other is forced. None takes four times the number of simulations.

    Raises:
        ValueError: a number is out of range, or two choices do not go together.
    """

    acting_phase = "search"

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        model: MCTSModel,
        discount: float,
        num_simulations: int = gin.REQUIRED,
        num_evaluation_simulations: int | None = None,
        search_policy: SearchPolicy = _DEFAULT_POLICY,
        temperature: float | Schedule = 1.0,
        greedy_after_moves: int | None = None,
        search_model: Callable[..., SearchableModel] = SearchModel,
        legal_mask_key: str | None = None,
        search_graphs: SearchGraphs | None = None,
        proposals: ProposalSettings | None = None,
        reuse_trees: bool = False,
        max_retained_nodes: int | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        if num_evaluation_simulations is None:
            num_evaluation_simulations = num_simulations
        if not 0 < discount <= 1:
            raise ValueError(f"MCTSAlgorithm.discount is {discount}; it must be in (0, 1]")
        check_at_least("MCTSAlgorithm.num_simulations", num_simulations, 0)
        check_at_least("MCTSAlgorithm.num_evaluation_simulations", num_evaluation_simulations, 0)
        if greedy_after_moves is not None:
            check_at_least("MCTSAlgorithm.greedy_after_moves", greedy_after_moves, 0)
        _check_legal_mask_key(legal_mask_key, observation_spec)
        self._search_model = search_model(model, discount)
        # Rules that are not learned may be those of another environment.
        if hasattr(self._search_model, "check_observation"):
            self._search_model.check_observation(observation_spec)
        if reuse_trees:
            _check_reuse(search_policy, self._search_model, proposals, legal_mask_key)
        _check_policy(search_policy, num_simulations, num_evaluation_simulations)
        self._actions = sampled_policy_of(model, action_spec)
        self._sampled_model = self._make_sampled_model(proposals)
        self._num_simulations = num_simulations
        self._num_evaluation_simulations = num_evaluation_simulations
        # Some policies ask a model for more than `root` and `step`.
        for_model = getattr(search_policy, "for_model", None)
        self._search_policy: SearchPolicy = (
            search_policy if for_model is None else for_model(self._sampled_model or self._search_model)
        )
        self._temperature_schedule = as_schedule(temperature, "MCTSAlgorithm.temperature", minimum=0.0)
        self._temperature = self._temperature_schedule(0.0)
        self._greedy_after_moves = greedy_after_moves
        self._legal_mask_key = legal_mask_key
        self._run_search = search if search_graphs is None else search_graphs.search
        self._reuse_trees = reuse_trees
        self._graphs_own_latents = search_graphs is not None
        self._max_retained_nodes = max_retained_nodes
        # Of the episodes in flight: a resumed run begins new ones, so these are not part of a checkpoint.
        self._moves: torch.Tensor | None = None
        self._last: dict[bool, PolicyOutput] = {}

    def _make_sampled_model(self, proposals: ProposalSettings | None) -> SampledModel | None:
        if proposals is not None:
            return SampledModel(self._search_model, self._actions, proposals)
        if self._actions.num_choices is None:
            raise ValueError(
                f"MCTSAlgorithm.proposals is None, but the actions are {self.action_spec}, too many to search them all;"
                " expected @ProposalSettings(), whose num_candidates are drawn in each node"
            )
        return None

    @property
    def settings_in_turn(self) -> dict[str, str]:
        """The settings because of which the rows of one call must be the steps after those of the call before.

        Their names, and the values that turn them off.
        """
        used = {"reuse_trees": "False"} if self._reuse_trees else {}
        return used if self._greedy_after_moves is None else used | {"greedy_after_moves": "None"}

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._answer(self.search(time_step, explore=False), state)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._answer(self.search(time_step, explore=True), state)

    def search(self, time_step: TimeStep, explore: bool, num_simulations: int | None = None) -> PolicyOutput:
        """Searches the rows `[B]` of a time step; actions, or else candidates, are numbered from 0.

        Args:
            time_step: the rows.
            explore: True as while collecting, with noise and temperature; False as in evaluation.
            num_simulations: None for the number that is set.
        """
        if num_simulations is None:
            num_simulations = self._num_simulations if explore else self._num_evaluation_simulations
        legal_mask = None
        if self._legal_mask_key is not None:
            # On a LAST row the game is over, no action need be legal, and the answer is ignored.
            legal_mask = (time_step.observation[self._legal_mask_key] != 0) | time_step.is_last().unsqueeze(1)
        retained = self._retained(time_step, explore, num_simulations)
        root, step = self._root_and_step(time_step, legal_mask, explore, retained)
        found = self._search_policy(
            root,
            step,
            num_simulations,
            None,  # the mask is in the root's logits, which may have more columns
            self._row_temperature(time_step) if explore else 0.0,
            explore,
            retained,
            self._run_search,
        )
        if self._reuse_trees:
            self._last[explore] = self._kept(found)
        return found

    def _kept(self, found: PolicyOutput) -> PolicyOutput:
        """A result that later searches leave as it is."""
        if not self._graphs_own_latents:
            return found
        latents = nest.map_structure(torch.clone, found.search.latents)
        return found._replace(search=found.search._replace(latents=latents))

    def _root_and_step(
        self, time_step: TimeStep, legal_mask: torch.Tensor | None, explore: bool, retained: RetainedTrees | None
    ) -> tuple[RootNode, Model]:
        if self._sampled_model is None:
            return self._search_model.root(time_step.observation, legal_mask), self._search_model.step
        root = self._sampled_model.root(time_step.observation, legal_mask, explore)
        return root if retained is None else keep_candidates(root, retained), self._sampled_model.step

    def _answer(self, found: PolicyOutput, state: nest.Nest) -> AlgStep:
        action, num_choices = found.action, self._actions.num_choices
        if self._sampled_model is None:
            info = SearchInfo(found.policy[:, :num_choices], found.value)
        else:
            # A copy, because the others belong to the latents of the whole tree.
            candidates = found.search.latents.candidates[0].clone()
            action = take_candidates(candidates, action)
            if num_choices is None:
                info = SearchInfo(found.policy, found.value, candidates)
            else:
                info = SearchInfo(spread_policy(found.policy, candidates, num_choices), found.value)
        return AlgStep(self._actions.to_environment(action), state, info)

    def _row_temperature(self, time_step: TimeStep) -> float | torch.Tensor:
        """The temperature, by the step of each row's episode if that matters."""
        if self._greedy_after_moves is None:
            return self._temperature
        first = time_step.is_first()
        if self._moves is None or self._moves.shape != first.shape:
            self._moves = torch.zeros_like(first, dtype=torch.int64)
        self._moves = torch.where(first, 0, self._moves + 1)
        return torch.where(self._moves < self._greedy_after_moves, self._temperature, 0.0)

    def _retained(self, time_step: TimeStep, explore: bool, num_simulations: int) -> RetainedTrees | None:
        """What is left of the last search, without the rows in which an episode has begun since."""
        last = self._last.pop(explore, None)
        if last is None or last.action.shape != time_step.reward.shape:
            return None
        limit = 4 * num_simulations if self._max_retained_nodes is None else self._max_retained_nodes
        return reroot(last.search, torch.where(time_step.is_first(), -1, last.action), num_simulations, max(limit, 1))

    def after_train_iter(self, progress: Progress) -> None:
        self._temperature = self._temperature_schedule(progress.fraction)


def _check_legal_mask_key(legal_mask_key: str | None, observation_spec: nest.Nest) -> None:
    if legal_mask_key is not None and not (isinstance(observation_spec, dict) and legal_mask_key in observation_spec):
        raise ValueError(
            f"MCTSAlgorithm.legal_mask_key is {legal_mask_key!r}; expected a key of the observation, {observation_spec}"
        )


def _check_policy(search_policy: SearchPolicy, *simulations: int) -> None:
    if isinstance(search_policy, type) or not callable(search_policy):
        raise ValueError(
            f"MCTSAlgorithm.search_policy is {search_policy!r}; expected a policy, such as @PuctPolicy() with its"
            " brackets"
        )
    # A policy of one's own need not have settings, nor say how little it can do with.
    leaves = getattr(getattr(search_policy, "settings", None), "leaves_per_round", 1)
    least = getattr(search_policy, "least_simulations", 0)
    for name, number in zip(("num_simulations", "num_evaluation_simulations"), simulations, strict=True):
        check_at_least(f"MCTSAlgorithm.{name}", number, least)
        if number % leaves:
            raise ValueError(
                f"MCTSAlgorithm.{name} is {number}; expected a multiple of SearchSettings.leaves_per_round, {leaves}"
            )


def _check_reuse(
    search_policy: SearchPolicy,
    search_model: SearchableModel,
    proposals: ProposalSettings | None,
    legal_mask_key: str | None,
) -> None:
    if proposals is not None and legal_mask_key is not None:
        raise ValueError(
            f"MCTSAlgorithm.reuse_trees is True with proposals and legal_mask_key = {legal_mask_key!r}: the candidates"
            " that a tree retains were drawn before the mask was known; expected reuse_trees = False"
        )
    if not getattr(search_policy, "retains_trees", False):
        raise ValueError(
            f"MCTSAlgorithm.reuse_trees is True and search_policy is {search_policy!r}, which begins each"
            " search anew; expected reuse_trees = False, or a PuctPolicy"
        )
    if not search_model.trees_can_go_on:
        raise ValueError(
            f"MCTSAlgorithm.reuse_trees is True and search_model is a {type(search_model).__name__}, whose"
            " trees go on behind outcomes of chance that an observation does not tell; expected reuse_trees = False"
        )
