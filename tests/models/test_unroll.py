import functools

import pytest
import torch
from muzero_parts import ACTION, PlainModel, small_model

from alfish import nest
from alfish.models.unroll import unroll
from alfish.networks.muzero_image_networks import ImageDynamics, ImageEncoding, ImagePrediction
from alfish.specs import TensorSpec

IMAGES = {
    "observation_spec": TensorSpec((1, 20, 20)),
    "encoding_network": functools.partial(ImageEncoding, channels=4),
    "dynamics_network": ImageDynamics,
    "prediction_network": ImagePrediction,
}


def test_the_gradient_into_the_dynamics_is_halved_at_each_step():
    # Latents 1, g, g²; the sum of the values is s (1 + g + g²) with s = g = 1. Each entrance to the dynamics halves
    # what goes on to the latent before it, and the parameter of a step gets the whole gradient of that step:
    #   d/ds = 1 + 1/2 + 1/4      d/dg = 1 (k = 1) + [1 (second step) + 1/2 (first step)] (k = 2)
    model = PlainModel(predicts_reward=False)
    unrolled = unroll(model, torch.ones(1, 1), torch.zeros(1, 2, dtype=torch.int64), gradient_scale=0.5)
    unrolled.prediction.value_logits.sum().backward()
    assert model.scale.grad.item() == 1.75
    assert model.growth.grad.item() == 2.5


def test_the_gradient_of_the_rewards_passes_one_entrance_more():
    # Rewards g and g²: d/ds = 1/2 + 1/4.
    model = PlainModel()
    unrolled = unroll(model, torch.ones(1, 1), torch.zeros(1, 2, dtype=torch.int64), gradient_scale=0.5)
    unrolled.reward_logits.sum().backward()
    assert model.scale.grad.item() == 0.75


def test_scale_1_leaves_the_gradient():
    model = PlainModel(predicts_reward=False)
    unrolled = unroll(model, torch.ones(1, 1), torch.zeros(1, 2, dtype=torch.int64), gradient_scale=1.0)
    unrolled.prediction.value_logits.sum().backward()
    assert (model.scale.grad.item(), model.growth.grad.item()) == (3.0, 3.0)


@pytest.mark.parametrize("options", [{}, {"predict_game_over": True, "reward_support": None}, IMAGES])
def test_unrolling_is_stepping(options):
    model = small_model(action_spec=ACTION, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # the heads, too
    observation = torch.randn(3, *options.get("observation_spec", TensorSpec((4,))).shape)
    action = torch.randint(2, (3, 4))
    unrolled = unroll(model, observation, action, gradient_scale=0.5)
    latent, rewards = model.encode(observation), []
    predictions = [model.predict(latent)]
    for k in range(4):
        dynamics = model.step(latent, action[:, k])
        latent = dynamics.latent
        rewards.append(dynamics.reward_logits)
        predictions.append(model.predict(latent))
    expected = nest.map_structure(lambda *leaves: torch.stack(leaves, dim=1), *predictions)
    nest.map_structure(torch.testing.assert_close, unrolled.prediction, expected)
    if model.predicts_reward:
        torch.testing.assert_close(unrolled.reward_logits, torch.stack(rewards, dim=1))
        assert unrolled.reward_logits.shape == (3, 4, 9)
    else:
        assert unrolled.reward_logits == ()
        assert unrolled.prediction.game_over_logit.shape == (3, 5)
    assert unrolled.prediction.policy_logits.shape == (3, 5, 2)
    assert unrolled.prediction.value_logits.shape == (3, 5, 11)
