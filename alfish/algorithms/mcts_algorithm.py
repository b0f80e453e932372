"""Acting by tree search over a learned model."""

from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import AlgStep, Progress, TimeStep
from alfish.mcts.records import PuctSettings
from alfish.mcts.search_policies import puct_policy
from alfish.models.mcts_model import MCTSModel
from alfish.models.search_model import SearchModel
from alfish.ops.schedules import Schedule, as_schedule

gin.external_configurable(PuctSettings, module="alfish.mcts.records")


class SearchInfo(NamedTuple):
    """What a search leaves in the replay buffer. Sampled blocks have `[B, L]` rows of it.

    Attributes:
        policy: `[B, A]`, the improved policy.
        value: `[B]`, of the root.
    """

    policy: torch.Tensor
    value: torch.Tensor


@gin.configurable
class MCTSAlgorithm(Algorithm):
    """Answers each row by a tree search over a model (Schrittwieser et al. 2020, appendix B).

    It has no loss of its own: something else trains the model. What `rollout_step` stores is a SearchInfo.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A.
        model: what is searched.
        discount: γ per environment step, the one that the model's values are learned with.
        num_simulations: of a search while collecting, at least 0; with 0 the model's policy acts.
        num_evaluation_simulations: of a search in evaluation and play; None takes `num_simulations`.
        search_settings: the rule of choice within the tree.
        temperature: the action is drawn in proportion to visits ** (1 / temperature) while collecting; a number, or a
            schedule over the run. 0 takes the most visited action, as evaluation and play do.
        dirichlet_alpha: concentration of the noise at the root while collecting.
        noise_fraction: share of that noise in the root's prior, in [0, 1].

    Raises:
        ValueError: a number is out of range.
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
        search_settings: PuctSettings | None = None,
        temperature: float | Schedule = 1.0,
        dirichlet_alpha: float = 0.3,
        noise_fraction: float = 0.25,
    ):
        super().__init__(observation_spec, action_spec)
        if num_evaluation_simulations is None:
            num_evaluation_simulations = num_simulations
        for name, value, valid, expected in (
            ("discount", discount, 0 < discount <= 1, "in (0, 1]"),
            ("num_simulations", num_simulations, num_simulations >= 0, "at least 0"),
            ("num_evaluation_simulations", num_evaluation_simulations, num_evaluation_simulations >= 0, "at least 0"),
            ("dirichlet_alpha", dirichlet_alpha, dirichlet_alpha > 0, "larger than 0"),
            ("noise_fraction", noise_fraction, 0 <= noise_fraction <= 1, "in [0, 1]"),
        ):
            if not valid:
                raise ValueError(f"MCTSAlgorithm.{name} is {value}; it must be {expected}")
        self._search_model = SearchModel(model, discount)
        self._num_simulations = num_simulations
        self._num_evaluation_simulations = num_evaluation_simulations
        self._search_settings = PuctSettings() if search_settings is None else search_settings
        self._temperature_schedule = as_schedule(temperature, "MCTSAlgorithm.temperature", minimum=0.0)
        self._temperature = self._temperature_schedule(0.0)
        self._dirichlet_alpha = dirichlet_alpha
        self._noise_fraction = noise_fraction
        self._first_action = int(action_spec.minimum)

    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._search(time_step, state, self._num_evaluation_simulations, temperature=0.0, noise_fraction=0.0)

    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        return self._search(time_step, state, self._num_simulations, self._temperature, self._noise_fraction)

    def _search(
        self, time_step: TimeStep, state: nest.Nest, num_simulations: int, temperature: float, noise_fraction: float
    ) -> AlgStep:
        found = puct_policy(
            self._search_model.root(time_step.observation),
            self._search_model.step,
            num_simulations,
            self._search_settings,
            temperature=temperature,
            dirichlet_alpha=self._dirichlet_alpha,
            noise_fraction=noise_fraction,
        )
        action = (found.action + self._first_action).to(self.action_spec.dtype)
        return AlgStep(action, state, SearchInfo(found.policy, found.value))

    def after_train_iter(self, progress: Progress) -> None:
        self._temperature = self._temperature_schedule(progress.fraction)
