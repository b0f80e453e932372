"""A model unrolled along the actions that were taken, as training sees it."""

from typing import NamedTuple

import torch

from alfish import nest
from alfish.models.mcts_model import MCTSModel, Prediction
from alfish.networks.latents import scale_gradient


class Unrolled(NamedTuple):
    """R steps of a model.

    Attributes:
        reward_logits: `[B, R, S]` of the rewards of the R actions; `()` if rewards are not predicted.
        prediction: `[B, R+1, ...]`, of the encoded observation and of each latent after it.
    """

    reward_logits: nest.Nest
    prediction: Prediction


def unroll(model: MCTSModel, observation: nest.Nest, action: torch.Tensor, gradient_scale: float) -> Unrolled:
    """Unrolls a model from an observation.

    Args:
        model: the model.
        observation: `[B, ...]`.
        action: `[B, R]`.
        gradient_scale: the gradient that each dynamics step hands to the latent before it is multiplied by this
            (Schrittwieser et al. 2020, appendix G: 1/2), so that its size does not depend on R.
    """
    latent = model.encode(observation)
    latents, rewards = [latent], []
    for step_action in action.unbind(1):
        entering = nest.map_structure(lambda leaf: scale_gradient(leaf, gradient_scale), latent)
        dynamics = model.step(entering, step_action)
        latent = dynamics.latent
        latents.append(latent)
        rewards.append(dynamics.reward_logits)
    # All R+1 predictions in one call: a step's latent is final before the next step, so nothing has to be in turn.
    stacked = nest.map_structure(lambda *leaves: torch.stack(leaves, dim=1), *latents)
    prediction = model.predict(nest.map_structure(lambda leaf: leaf.flatten(0, 1), stacked))
    shape = (action.shape[0], action.shape[1] + 1)
    reward_logits = torch.stack(rewards, dim=1) if model.predicts_reward and rewards else ()
    return Unrolled(reward_logits, nest.map_structure(lambda leaf: leaf.unflatten(0, shape), prediction))
