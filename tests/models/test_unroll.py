import functools

import pytest
import torch
from muzero_parts import ACTION, PlainModel, small_model

from alfish import nest
from alfish.models.unroll import unroll, write_gradient_norm
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


def test_the_norms_of_the_latents_gradients():
    # Rows 3 and 4, latents s, s, s; the loss is the sum of the values. A half of what step k has goes on to k - 1:
    #   d/ds[2] = 1, d/ds[1] = 1 + 1/2, d/ds[0] = 1 + (1 + 1/2) / 2, for both rows.
    model, norm = PlainModel(predicts_reward=False), torch.zeros(3)
    observation = torch.tensor([[3.0], [4.0]])
    unrolled = unroll(model, observation, torch.zeros(2, 2, dtype=torch.int64), 0.5, norm)
    assert norm.tolist() == [0.0, 0.0, 0.0]
    unrolled.prediction.value_logits.sum().backward()
    assert norm.tolist() == pytest.approx([1.75 * 2**0.5, 1.5 * 2**0.5, 2**0.5])
    with torch.no_grad():
        unroll(model, observation, torch.zeros(2, 2, dtype=torch.int64), 0.5, torch.zeros(3))


def test_norms_change_no_gradient():
    action = torch.zeros(2, 3, dtype=torch.int64)
    gradients = []
    for norm in (None, torch.zeros(4)):
        torch.manual_seed(0)
        model = small_model(action_spec=ACTION)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        unroll(model, torch.ones(2, 4), action, 0.5, norm).prediction.value_logits.square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    nest.map_structure(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), *gradients)


def test_a_norm_of_several_tensors_together():
    one, other = torch.zeros(3, requires_grad=True), torch.zeros(4, requires_grad=True)
    norm = torch.zeros(())
    tensors = {"one": one * 1, "other": (other * 1, torch.zeros(2))}
    write_gradient_norm(tensors, norm)
    (tensors["one"][0] * 3 + tensors["other"][0][1] * 4).backward()
    assert norm.item() == pytest.approx(5.0)


@pytest.mark.parametrize("options", [{}, {"predict_game_over": True, "reward_support": None}, IMAGES])
def test_unrolling_is_stepping(options):
    model = small_model(action_spec=ACTION, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # the heads, too
    observation = torch.randn(3, *options.get("observation_spec", TensorSpec((4,))).shape)
    action = torch.randint(2, (3, 4))
    unrolled = unroll(model, observation, action, gradient_scale=0.5)
    latent, rewards = model.encode(observation), []
    latents, predictions = [latent], [model.predict(latent)]
    for k in range(4):
        dynamics = model.step(latent, action[:, k])
        latent = dynamics.latent
        latents.append(latent)
        rewards.append(dynamics.reward_logits)
        predictions.append(model.predict(latent))
    expected = nest.map_structure(lambda *leaves: torch.stack(leaves, dim=1), *predictions)
    nest.map_structure(torch.testing.assert_close, unrolled.prediction, expected)
    torch.testing.assert_close(unrolled.latent, torch.stack(latents, dim=1))
    if model.predicts_reward:
        torch.testing.assert_close(unrolled.reward_logits, torch.stack(rewards, dim=1))
        assert unrolled.reward_logits.shape == (3, 4, 9)
    else:
        assert unrolled.reward_logits == ()
        assert unrolled.prediction.game_over_logit.shape == (3, 5)
    assert unrolled.prediction.policy_logits.shape == (3, 5, 2)
    assert unrolled.prediction.value_logits.shape == (3, 5, 11)
