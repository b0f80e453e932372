"""The interface of a learned model that a tree search can ask and an unroll can train."""

from typing import NamedTuple

import torch

from alfish import nest


class Dynamics(NamedTuple):
    """What a model says of one action.

    Attributes:
        latent: `[B, ...]`, after the action.
        reward_logits: `[B, S]`, of the reward received on the way; `()` if rewards are not predicted.
    """

    latent: nest.Nest
    reward_logits: nest.Nest


class Prediction(NamedTuple):
    """What a model says of a latent.

    Attributes:
        policy_logits: `[B, A]`.
        value_logits: `[B, S]`.
        game_over_logit: `[B]`, logit of "no reward can follow"; `()` if it is not predicted.
    """

    policy_logits: torch.Tensor
    value_logits: torch.Tensor
    game_over_logit: nest.Nest


class MCTSModel(torch.nn.Module):
    """A learned model of an environment (Schrittwieser et al. 2020, section 3).

    Actions are numbered `0 … A−1`, whatever the environment calls them.

    Attributes:
        num_actions: A.
        predicts_reward: True if `Dynamics.reward_logits` is there.
        predicts_game_over: True if `Prediction.game_over_logit` is there.
    """

    num_actions: int
    predicts_reward: bool
    predicts_game_over: bool

    def encode(self, observation: nest.Nest) -> nest.Nest:
        """The representation function h: `[B, ...]` observations to latents."""
        raise NotImplementedError(f"{type(self).__name__} must define encode(observation)")

    def step(self, latent: nest.Nest, action: torch.Tensor) -> Dynamics:
        """The dynamics function g: latents and actions `[B]` to what follows."""
        raise NotImplementedError(f"{type(self).__name__} must define step(latent, action)")

    def predict(self, latent: nest.Nest) -> Prediction:
        """The prediction function f: of latents `[B, ...]`."""
        raise NotImplementedError(f"{type(self).__name__} must define predict(latent)")

    def value_of(self, value_logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., S]` to values `[...]` on the scale of rewards."""
        raise NotImplementedError(f"{type(self).__name__} must define value_of(value_logits)")

    def reward_of(self, reward_logits: torch.Tensor) -> torch.Tensor:
        """Logits `[..., S]` to rewards `[...]`."""
        raise NotImplementedError(f"{type(self).__name__} must define reward_of(reward_logits)")

    def value_and_reward_of(
        self, value_logits: torch.Tensor, reward_logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`value_of` and `reward_of` for a search's step `[B, S]`, which a model may answer faster together."""
        return self.value_of(value_logits), self.reward_of(reward_logits)

    def value_loss(self, value_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss `[...]` of logits `[..., S]` against values `[...]`."""
        raise NotImplementedError(f"{type(self).__name__} must define value_loss(value_logits, target)")

    def reward_loss(self, reward_logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss `[...]` of logits `[..., S]` against rewards `[...]`."""
        raise NotImplementedError(f"{type(self).__name__} must define reward_loss(reward_logits, target)")
