"""A stochastic model unrolled along what was done and what was seen, as training sees it."""

from typing import NamedTuple

import torch

from alfish import nest
from alfish.models.mcts_model import Prediction
from alfish.models.stochastic_mcts_model import AfterstatePrediction, ChanceCode, StochasticMCTSModel
from alfish.models.unroll import of_all_steps, write_gradient_norm
from alfish.networks.latents import scale_gradient
from alfish.ops.value_losses import categorical_cross_entropy, squared_error


class StochasticUnrolled(NamedTuple):
    """R steps of a stochastic model.

    Attributes:
        reward_logits: `[B, R, S]` of the rewards of the R actions; `()` if rewards are not predicted.
        prediction: `[B, R+1, ...]`, of the encoded observation and of each latent after it.
        afterstate: `[B, R, ...]`, of the afterstate of each action.
        code: `[B, R, C]`, of what chance did after each action.
        latent: nest of `[B, R+1, ...]`, what the predictions are about.
    """

    reward_logits: nest.Nest
    prediction: Prediction
    afterstate: AfterstatePrediction
    code: ChanceCode
    latent: nest.Nest


def stochastic_unroll(
    model: StochasticMCTSModel,
    observation: nest.Nest,
    action: torch.Tensor,
    gradient_scale: float,
    gradient_norm: torch.Tensor | None = None,
) -> StochasticUnrolled:
    """Unrolls a model from an observation (Antonoglou et al. 2022, section 4).

    Args:
        model: the model.
        observation: `[B, R+1, ...]`. The first is encoded; from each pair of neighbours a chance code is read.
        action: `[B, R]`, R at least 1.
        gradient_scale: the gradient that each step hands to the latent before it is multiplied by this, as in `unroll`.
        gradient_norm: as in `unroll`.
    """
    shape = action.shape
    before = nest.map_structure(lambda leaf: leaf[:, :-1].flatten(0, 1), observation)
    after = nest.map_structure(lambda leaf: leaf[:, 1:].flatten(0, 1), observation)
    code = nest.map_structure(lambda leaf: leaf.unflatten(0, shape), model.chance_code(before, after))
    latent = model.encode(nest.map_structure(lambda leaf: leaf[:, 0], observation))
    latents, afterstates, rewards = [latent], [], []
    for step_action, step_code in zip(action.unbind(1), code.code.unbind(1), strict=True):
        entering = nest.map_structure(lambda leaf: scale_gradient(leaf, gradient_scale), latent)
        afterstate = model.afterstate(entering, step_action)
        dynamics = model.after_chance(afterstate, step_code)
        latent = dynamics.latent
        latents.append(latent)
        afterstates.append(afterstate)
        rewards.append(dynamics.reward_logits)
    if gradient_norm is not None:
        for latent, norm in zip(latents, gradient_norm.unbind(), strict=True):
            write_gradient_norm(model.state_of(latent), norm)
    stacked, prediction = of_all_steps(model.predict, latents)
    return StochasticUnrolled(
        reward_logits=torch.stack(rewards, dim=1) if model.predicts_reward else (),
        prediction=prediction,
        afterstate=of_all_steps(model.predict_afterstate, afterstates)[1],
        code=code,
        latent=stacked,
    )


def chance_losses(unrolled: StochasticUnrolled) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses that a stochastic model has beside those of rewards, values and policies (section 4).

    Returns:
        `[B, R]` each: the cross-entropy of the outcomes that the afterstates predict against the codes, and the squared
        distance of the encoder's output from its code. The codes are targets: no gradient passes through them here.
    """
    code = unrolled.code.code.detach()
    return (
        categorical_cross_entropy(unrolled.afterstate.outcome_logits, code),
        squared_error(unrolled.code.embedding, code).sum(dim=-1),
    )
