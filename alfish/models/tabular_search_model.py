"""A simulator whose outcomes are listed, as `MCTSAlgorithm.search_model` with chance nodes."""

from collections.abc import Callable

import gin
import torch

from alfish import nest, specs
from alfish.environments.simulators.tabular import TabularSimulator
from alfish.mcts.records import RootNode, Step
from alfish.mcts.stochastic import Afterstate, StochasticLatent, stochastic_model, stochastic_root
from alfish.models.mcts_model import MCTSModel
from alfish.models.tabular_stochastic_model import TabularLatent


@gin.configurable
class TabularSearchModel:
    """Searches a known Markov decision process with chance nodes, and a learned model's policy and value at the leaves.

    Unlike a search in known futures (`SimulatorSearchModel`) it neither knows what will happen nor forgets to look. A
    state's number is the observation. An afterstate has the expected value of its outcomes, for which the model is
    asked of all of them.

    Args:
        model: the learned model, in evaluation mode; only `encode` and `predict` are used.
        discount: γ per step, in (0, 1].
        simulator: makes the rules, e.g. `@make_tabular_simulator`.
        by_mask: as in `stochastic_model`.

    Raises:
        ValueError: the simulator has no tables, or other actions than the model.
    """

    trees_can_go_on = False

    def __init__(
        self,
        model: MCTSModel,
        discount: float,
        simulator: Callable[[], TabularSimulator] = gin.REQUIRED,
        by_mask: bool | None = None,
    ):
        rules = simulator()
        name = f"TabularSearchModel.simulator is a {type(rules).__name__}"
        if not isinstance(rules, TabularSimulator):
            raise ValueError(f"{name}; expected a TabularSimulator; for others there is SimulatorSearchModel")
        if rules.num_actions != model.num_actions:
            raise ValueError(f"{name} with {rules.num_actions} actions; expected {model.num_actions}, as the model has")
        self._rules, outcomes = rules, rules.outcomes
        self._model = model
        self._probability = outcomes.probability.float()
        self._next_state = outcomes.next_state
        self._reward = outcomes.reward
        self._discount = torch.where(outcomes.ends, 0.0, discount)
        self._legal = rules.legal_mask(torch.arange(rules.num_states, device=rules.initial_state(1).device)).cpu()
        # In a finished state nothing need be legal; what is answered there is ignored.
        self._legal |= ~self._legal.any(dim=1, keepdim=True)
        self._num_outcomes = self._probability.shape[2]
        self._step = stochastic_model(self._decide, self._happen, rules.num_actions, self._num_outcomes, by_mask)

    def check_observation(self, observation_spec: nest.Nest) -> None:
        """Raises a ValueError if observations of this kind cannot be the simulator's states."""
        self._rules.check_state_spec(observation_spec)

    def root(self, observation: nest.Nest, legal_mask: torch.Tensor | None = None) -> RootNode:
        """The root of each state `[B]` int64.

        Args:
            observation: the states.
            legal_mask: `[B, A]` bool, True for legal actions, beside what the tables say; None for all.

        Raises:
            ValueError: the observation is not a state's number.
        """
        if not isinstance(observation, torch.Tensor) or observation.dtype != torch.int64 or observation.dim() != 1:
            found = specs.spec_of(observation, outer_dims=1)
            raise ValueError(
                f"TabularSearchModel got observations of {found}; expected the numbers of states, int64 [B]"
            )
        self._to(observation.device)
        logits, value = self._evaluate(observation)
        if legal_mask is not None:
            logits = logits.masked_fill(~legal_mask, -torch.inf)
        latent = TabularLatent(observation, torch.zeros_like(observation))
        return stochastic_root(RootNode(latent, logits, value), self._num_outcomes)

    def step(self, latent: StochasticLatent, action: torch.Tensor) -> Step:
        """What follows from actions or outcomes `[B]` in the latents of states or afterstates."""
        return self._step(latent, action)

    def _to(self, device: torch.device) -> None:
        if self._legal.device != device:
            for name in ("_probability", "_next_state", "_reward", "_discount", "_legal"):
                setattr(self, name, getattr(self, name).to(device))

    def _evaluate(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = self._model.predict(self._model.encode(state))
        logits = prediction.policy_logits.masked_fill(~self._legal[state], -torch.inf)
        return logits, self._model.value_of(prediction.value_logits)

    def _decide(self, latent: TabularLatent, action: torch.Tensor) -> Afterstate:
        index = latent.state, action
        probability, next_state = self._probability[index], self._next_state[index]
        _, value = self._evaluate(next_state.flatten())
        follows = self._reward[index] + self._discount[index] * value.view_as(probability)
        # A copy of the action, because a search lends it for the duration of the call only.
        return Afterstate(
            latent=TabularLatent(latent.state, action.clone()),
            value=(probability * follows).sum(1),
            outcome_logits=probability.log(),
        )

    def _happen(self, latent: TabularLatent, outcome: torch.Tensor) -> Step:
        index = latent.state, latent.action, outcome
        state = self._next_state[index]
        logits, value = self._evaluate(state)
        return Step(
            latent=TabularLatent(state, torch.zeros_like(state)),
            reward=self._reward[index],
            discount=self._discount[index],
            prior_logits=logits,
            value=value,
        )
