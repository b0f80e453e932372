"""The interface of a learned model that a tree search can ask and an unroll can train."""

from typing import NamedTuple

import torch

from alfish import nest
from alfish.ops.sampled_policies import SampledPolicy
from alfish.ops.scalar_supports import ScalarSupport
from alfish.specs import is_choice


class Dynamics(NamedTuple):
    """What a model says of one action.

    Attributes:
        latent: `[B, ...]`, after the action.
        reward_logits: `[B, S]`, of the reward received on the way; `()` if rewards are not predicted.
        reward: `[B]`, for a search, where the model knows the reward without `reward_of`; `()` elsewhere.
    """

    latent: nest.Nest
    reward_logits: nest.Nest
    reward: nest.Nest = ()


class Prediction(NamedTuple):
    """What a model says of a latent.

    Attributes:
        policy_logits: `[B, A]`.
        value_logits: `[B, S]`; S of the value need not be that of the reward.
        game_over_logit: `[B]`, logit of "no reward can follow"; `()` if it is not predicted.
    """

    policy_logits: torch.Tensor
    value_logits: torch.Tensor
    game_over_logit: nest.Nest


class MCTSModel(torch.nn.Module):
    """A learned model of an environment (Schrittwieser et al. 2020, section 3).

    Actions are numbered `0 … A−1`, whatever the environment calls them. A model defines `encode`, `step` and `predict`.
    It either gives its supports to this constructor, or defines what the logits of values and rewards mean and cost.

    Args:
        value_support: what the outputs of the value head stand for and what they cost; None if `value_of` and
            `value_loss` are defined otherwise.
        reward_support: likewise of the reward; None also if rewards are not predicted.

    Attributes:
        num_actions: A.
        action_policy: what `Prediction.policy_logits` are the parameters of; None if they are the logits of A actions.
        num_outcomes: C, chance outcomes between an action and the next state; 0 if there are none
            (`StochasticMCTSModel`).
        predicts_reward: True if `Dynamics.reward_logits` is there.
        predicts_game_over: True if `Prediction.game_over_logit` is there.
        predicts_to_play: True if `to_play` says who moves, in a game of two players without a fixed order of turns.
    """

    num_actions: int
    num_outcomes: int = 0
    predicts_reward: bool
    predicts_game_over: bool
    predicts_to_play: bool = False

    def __init__(self, value_support: ScalarSupport | None = None, reward_support: ScalarSupport | None = None):
        super().__init__()
        self.action_policy: SampledPolicy | None = None
        self.value_support = value_support
        self.reward_support = reward_support
        self._one_transform = (
            value_support is not None
            and reward_support is not None
            and value_support.transform == reward_support.transform
        )

    def encode(self, observation: nest.Nest) -> nest.Nest:
        """The representation function h: `[B, ...]` observations to latents."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(observation)")

    def step(self, latent: nest.Nest, action: torch.Tensor) -> Dynamics:
        """The dynamics function g: latents and actions `[B]` to what follows."""
        raise NotImplementedError(f"{type(self).__name__} must define step(latent, action)")

    def predict(self, latent: nest.Nest) -> Prediction:
        """The prediction function f: of latents `[B, ...]`."""
        raise NotImplementedError(f"{type(self).__name__} must define predict(latent)")

    def state_of(self, latent: nest.Nest) -> nest.Nest:
        """The part of latents `[B, ...]` that describes the state: all of it, unless a model says otherwise.

        Of an encoded observation it is the representation that other algorithms see.
        """
        return latent

    def to_play(self, latent: nest.Nest) -> torch.Tensor:
        """Who moves in latents `[B, ...]`: `[B]` int64, the number of a player."""
        raise NotImplementedError(f"{type(self).__name__} must define to_play(latent)")

    def value_of(self, value_logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., S]` to values `[...]` on the scale of rewards."""
        if self.value_support is None:
            raise NotImplementedError(f"{type(self).__name__} must have a value_support, or define value_of(logits)")
        return self.value_support.to_scalar(value_logits)

    def reward_of(self, reward_logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., S]` to rewards `[...]`."""
        if self.reward_support is None:
            raise NotImplementedError(f"{type(self).__name__} must have a reward_support, or define reward_of(logits)")
        return self.reward_support.to_scalar(reward_logits)

    def rewards_of_unroll(self, reward_logits: torch.Tensor) -> torch.Tensor:
        """The rewards `[..., R]` of an unroll's logits `[..., R, S]`."""
        return self.reward_of(reward_logits)

    def value_and_reward_of(
        self, value_logits: torch.Tensor, reward_logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`value_of` and `reward_of` for a search's step `[B, S]`, faster together."""
        if not self._one_transform:
            return self.value_of(value_logits), self.reward_of(reward_logits)
        assert self.value_support is not None and self.reward_support is not None
        # A search asks with a few rows, for which each operation costs the same, whether on one number or two.
        transformed = (
            self.value_support.to_transformed(value_logits),
            self.reward_support.to_transformed(reward_logits),
        )
        value, reward = self.value_support.transform.inverse(torch.stack(transformed)).unbind()
        return value, reward

    def value_loss(self, value_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss `[...]` of logits `[..., S]` against values `[...]`."""
        if self.value_support is None:
            raise NotImplementedError(f"{type(self).__name__} must have a value_support, or define value_loss")
        return self.value_support.loss(value_logits, target)

    def reward_loss(self, reward_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss `[..., R]` of an unroll's logits `[..., R, S]` against the rewards `[..., R]` of its R steps."""
        if self.reward_support is None:
            raise NotImplementedError(f"{type(self).__name__} must have a reward_support, or define reward_loss")
        return self.reward_support.loss(reward_logits, target)


def num_discrete_actions(owner: str, action_spec: nest.Nest) -> int:
    """The number A of choices of an action.

    Raises:
        ValueError: the action is not one discrete choice.
    """
    if not is_choice(action_spec):
        raise ValueError(
            f"{owner} needs one discrete action (a Discrete space), not {action_spec}; take @ContinuousMCTSModel, "
            "whose search samples its candidates, or an algorithm without a search"
        )
    return action_spec.num_values
