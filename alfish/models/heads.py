"""The heads that the learned models have in common: policy, value, reward and the end of the game."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from alfish.models.mcts_model import Prediction
from alfish.ops.scalar_supports import ScalarSupport


class Heads(NamedTuple):
    """What a model's networks must have outputs for.

    Attributes:
        value_support: what the outputs of the value head stand for.
        reward_support: likewise of the reward; None if rewards are not predicted.
        head_sizes: outputs of the prediction network: of the policy, of the value, and 1 for the end of the game if it
            is predicted.
        num_reward_outputs: outputs of the dynamics network for the reward; 0 for none.
    """

    value_support: ScalarSupport
    reward_support: ScalarSupport | None
    head_sizes: list[int]
    num_reward_outputs: int


def make_heads(
    num_policy_outputs: int,
    value_support: Callable[[], ScalarSupport],
    reward_support: Callable[[], ScalarSupport] | None,
    predict_game_over: bool,
) -> Heads:
    """Makes the supports and counts the outputs.

    Args:
        num_policy_outputs: of the policy head.
        value_support: makes the support of the value.
        reward_support: makes that of the reward; None predicts no rewards.
        predict_game_over: adds a head for the end of the game.
    """
    of_value = value_support()
    of_reward = None if reward_support is None else reward_support()
    head_sizes = [num_policy_outputs, of_value.num_outputs] + [1] * predict_game_over
    return Heads(of_value, of_reward, head_sizes, 0 if of_reward is None else of_reward.num_outputs)


def read_prediction(outputs: Sequence[torch.Tensor]) -> Prediction:
    """The prediction from the outputs `[B, size]` of a prediction network with `Heads.head_sizes`."""
    policy_logits, value_logits, *rest = outputs
    return Prediction(policy_logits, value_logits, rest[0].squeeze(1) if rest else ())
