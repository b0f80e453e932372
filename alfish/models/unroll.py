"""A model unrolled along the actions that were taken, as training sees it."""

from collections.abc import Callable
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
        latent: nest of `[B, R+1, ...]`, what the predictions are about.
    """

    reward_logits: nest.Nest
    prediction: Prediction
    latent: nest.Nest


def unroll(
    model: MCTSModel,
    observation: nest.Nest,
    action: torch.Tensor,
    gradient_scale: float,
    gradient_norm: torch.Tensor | None = None,
) -> Unrolled:
    """Unrolls a model from an observation.

    Args:
        model: the model.
        observation: `[B, ...]`.
        action: `[B, R]`.
        gradient_scale: the gradient that each dynamics step hands to the latent before it is multiplied by this
            (Schrittwieser et al. 2020, appendix G: 1/2), so that its size does not depend on R.
        gradient_norm: `[R+1]`, zeros. A backward pass, if there is one, writes the norm of the gradient of each
            step's latents into it. None measures nothing.
    """
    latent = model.encode(observation)
    latents, rewards = [latent], []
    for step_action in action.unbind(1):
        entering = nest.map_structure(lambda leaf: scale_gradient(leaf, gradient_scale), latent)
        dynamics = model.step(entering, step_action)
        latent = dynamics.latent
        latents.append(latent)
        rewards.append(dynamics.reward_logits)
    if gradient_norm is not None:
        for latent, norm in zip(latents, gradient_norm.unbind(), strict=True):
            write_gradient_norm(model.state_of(latent), norm)
    stacked, prediction = of_all_steps(model.predict, latents)
    reward_logits = torch.stack(rewards, dim=1) if model.predicts_reward and rewards else ()
    return Unrolled(reward_logits, prediction, stacked)


def of_all_steps(predict: Callable[[nest.Nest], nest.Nest], latents: list[nest.Nest]) -> tuple[nest.Nest, nest.Nest]:
    """Latents `[B, ...]` of several steps as `[B, steps, ...]`, and the predictions from them, likewise.

    In one call: a step's latent is final before the next step, so nothing has to be in turn.
    """
    stacked = nest.map_structure(lambda *leaves: torch.stack(leaves, dim=1), *latents)
    prediction = predict(nest.map_structure(lambda leaf: leaf.flatten(0, 1), stacked))
    shape = (nest.leaves(stacked)[0].shape[0], len(latents))
    return stacked, nest.map_structure(lambda leaf: leaf.unflatten(0, shape), prediction)


def write_gradient_norm(tensors: nest.Nest, norm: torch.Tensor) -> None:
    """Has the norm of the gradient of a nest of tensors, taken together, written into `norm` by a backward pass.

    Args:
        tensors: what the gradient is of; those that require none are left out.
        norm: a scalar, 0 until then.
    """

    def write(gradient: torch.Tensor) -> None:
        norm.copy_(torch.hypot(norm, torch.linalg.vector_norm(gradient).to(norm.dtype)))

    for leaf in nest.leaves(tensors):
        if leaf.requires_grad:
            leaf.register_hook(write)
