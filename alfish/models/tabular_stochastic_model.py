"""The exact stochastic model of a small game that is written down as a table."""

from typing import NamedTuple

import torch

from alfish.mcts.records import RootNode, Step
from alfish.mcts.stochastic import Afterstate, StochasticLatent, stochastic_model, stochastic_root


class TabularLatent(NamedTuple):
    """A state, and in an afterstate the action that was taken there.

    Attributes:
        state: `[B]` int64.
        action: `[B]` int64; 0 in a state.
    """

    state: torch.Tensor
    action: torch.Tensor


class TabularStochasticModel:
    """A search with chance nodes over a Markov decision process that is known exactly.

    Below, M is the number of states and C that of the outcomes of each action. Priors are uniform over legal actions.
    Searches take its `root` and its `step`, as of a `SearchModel`.

    Args:
        probability: `[M, A, C]`, of each outcome; 0 for one that does not happen.
        next_state: `[M, A, C]` int64.
        reward: `[M, A, C]`.
        discount: `[M, A, C]` in [-1, 1], with γ: 0 where the outcome ends the game, -γ where the other player moves.
        value: `[M]`, what leaves of the tree are worth; None for 0.
        legal_mask: `[M, A]` bool; None if all actions are legal everywhere.
        by_mask: as in `stochastic_model`.

    Raises:
        ValueError: a table has another shape, the probabilities of an action do not add up to 1, or a next state does
            not exist.
    """

    def __init__(
        self,
        probability: torch.Tensor,
        next_state: torch.Tensor,
        reward: torch.Tensor,
        discount: torch.Tensor,
        value: torch.Tensor | None = None,
        legal_mask: torch.Tensor | None = None,
        by_mask: bool | None = None,
    ):
        if probability.dim() != 3 or 0 in probability.shape:
            raise ValueError(
                f"probability has the shape {tuple(probability.shape)}; expected [M, A, C], all at least 1"
            )
        num_states, num_actions, self._num_outcomes = probability.shape
        value = torch.zeros(num_states) if value is None else value
        legal = torch.ones(num_states, num_actions, dtype=torch.bool) if legal_mask is None else legal_mask
        for name, table, dims in (
            ("next_state", next_state, 3),
            ("reward", reward, 3),
            ("discount", discount, 3),
            ("value", value, 1),
            ("legal_mask", legal, 2),
        ):
            if table.shape != probability.shape[:dims]:
                shape = tuple(probability.shape[:dims])
                raise ValueError(f"{name} has the shape {tuple(table.shape)}; expected {shape}, like probability")
        total = probability.double().sum(dim=2)
        if not ((probability >= 0).all() and ((total - 1).abs() < 1e-4).all()):
            raise ValueError("probability must not be negative, and add up to 1 over the outcomes of each action")
        if not ((next_state >= 0) & (next_state < num_states)).all():
            raise ValueError(f"next_state has a number outside 0 … {num_states - 1}, the states")
        self._log_probability = probability.log()
        self._next_state, self._reward, self._discount, self._value = next_state.long(), reward, discount, value
        self._prior_logits = torch.zeros(num_states, num_actions).masked_fill(~legal, -torch.inf)
        follows = reward + discount * value[self._next_state]
        self._afterstate_value = (probability * torch.where(probability > 0, follows, 0.0)).sum(dim=2)
        self._step = stochastic_model(self._decide, self._happen, num_actions, self._num_outcomes, by_mask)

    def root(self, state: torch.Tensor) -> RootNode:
        """The roots of states `[B]` int64."""
        latent = TabularLatent(state, torch.zeros_like(state))
        return stochastic_root(RootNode(latent, self._prior_logits[state], self._value[state]), self._num_outcomes)

    def step(self, latent: StochasticLatent, action: torch.Tensor) -> Step:
        """What follows from actions or outcomes `[B]` in the latents of states or afterstates."""
        return self._step(latent, action)

    def _decide(self, latent: TabularLatent, action: torch.Tensor) -> Afterstate:
        index = latent.state, action
        # A copy of the action, because a search lends it for the duration of the call only.
        return Afterstate(
            TabularLatent(latent.state, action.clone()), self._afterstate_value[index], self._log_probability[index]
        )

    def _happen(self, latent: TabularLatent, outcome: torch.Tensor) -> Step:
        index = latent.state, latent.action, outcome
        state = self._next_state[index]
        return Step(
            latent=TabularLatent(state, torch.zeros_like(state)),
            reward=self._reward[index],
            discount=self._discount[index],
            prior_logits=self._prior_logits[state],
            value=self._value[state],
        )
