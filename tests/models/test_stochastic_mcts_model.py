import pytest
import torch
from muzero_parts import ACTION, OBSERVATION, small_support
from stochastic_parts import small_stochastic_model

from alfish import nest
from alfish.models.stochastic_unroll import StochasticUnrolled, chance_losses, stochastic_unroll
from alfish.models.value_prefix_mcts_model import ValuePrefixMCTSModel
from alfish.specs import BoundedTensorSpec


def noisy(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def test_a_new_model_has_even_chances_and_zero_values_and_rewards():
    model = small_stochastic_model(predict_game_over=True)
    latent = model.encode(torch.randn(4, 4))
    afterstate = model.afterstate(latent, torch.tensor([0, 1, 0, 1]))
    outcome_logits, value_logits = model.predict_afterstate(afterstate)
    torch.testing.assert_close(outcome_logits.softmax(1), torch.full((4, 3), 1 / 3))
    torch.testing.assert_close(model.value_of(value_logits), torch.zeros(4))
    dynamics = model.after_chance(afterstate, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(model.reward_of(dynamics.reward_logits), torch.zeros(4))
    assert afterstate.shape == dynamics.latent.shape == latent.shape == (4, *model.latent_shape)
    prediction = model.predict(dynamics.latent)
    assert (prediction.policy_logits.shape, prediction.game_over_logit.shape) == ((4, 2), (4,))


def test_actions_and_outcomes_count():
    model = noisy(small_stochastic_model())
    latent = model.encode(torch.randn(1, 4)).expand(6, -1)
    afterstate = model.afterstate(latent, torch.tensor([0, 0, 0, 1, 1, 1]))
    following = model.after_chance(afterstate, torch.tensor([0, 1, 2, 0, 1, 2])).latent
    assert torch.pdist(following).min() > 1e-4
    codes = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 2])).float()
    torch.testing.assert_close(model.after_chance(afterstate, codes).latent, following)


def test_a_code_is_one_hot_and_lets_the_gradient_through():
    model = noisy(small_stochastic_model())
    code, embedding = model.chance_code(torch.randn(5, 4), torch.randn(5, 4))
    assert torch.equal(code, torch.nn.functional.one_hot(embedding.argmax(1), 3).float())
    weights = torch.randn(5, 3)
    (gradient,) = torch.autograd.grad((code * weights).sum(), embedding)
    assert torch.equal(gradient, weights)


def test_both_observations_are_read():
    model = noisy(small_stochastic_model())
    first, second = torch.randn(2, 1, 4)
    swapped = model.chance_code(second, first).embedding
    assert not torch.allclose(model.chance_code(first, second).embedding, swapped)


def test_without_rewards():
    model = small_stochastic_model(reward_support=None)
    afterstate = model.afterstate(model.encode(torch.randn(2, 4)), torch.zeros(2).long())
    assert model.after_chance(afterstate, torch.zeros(2).long()).reward_logits == ()
    assert stochastic_unroll(model, torch.randn(2, 3, 4), torch.zeros(2, 2).long(), 0.5).reward_logits == ()


def test_errors():
    with pytest.raises(ValueError, match="num_outcomes is 0; it must be at least 1"):
        small_stochastic_model(num_outcomes=0)
    with pytest.raises(ValueError, match="StochasticMCTSModel needs one discrete action .*; take @ContinuousMCTSModel"):
        small_stochastic_model(action_spec=BoundedTensorSpec((), torch.float32, 0, 1))
    with pytest.raises(ValueError, match="dynamics_network is a Linear, which reads numbers only"):
        small_stochastic_model(dynamics_network=lambda *sizes: torch.nn.Linear(1, 1))
    with pytest.raises(NotImplementedError, match="StochasticSearchModel"):
        small_stochastic_model().step(torch.zeros(1, 16), torch.zeros(1).long())


def test_unrolling_is_stepping():
    model = noisy(small_stochastic_model(predict_game_over=True))
    observation, action = torch.randn(3, 5, 4), torch.randint(2, (3, 4))
    unrolled = stochastic_unroll(model, observation, action, 0.5)
    latent = model.encode(observation[:, 0])
    predictions, afterstates, rewards, codes, latents = [model.predict(latent)], [], [], [], [latent]
    for k in range(4):
        codes.append(model.chance_code(observation[:, k], observation[:, k + 1]))
        afterstate = model.afterstate(latent, action[:, k])
        afterstates.append(model.predict_afterstate(afterstate))
        latent, reward_logits, _ = model.after_chance(afterstate, codes[-1].embedding.argmax(1))
        latents.append(latent)
        rewards.append(reward_logits)
        predictions.append(model.predict(latent))
    parts = (rewards, predictions, afterstates, codes, latents)
    expected = [nest.map_structure(lambda *leaves: torch.stack(leaves, 1), *part) for part in parts]
    nest.map_structure(torch.testing.assert_close, unrolled, StochasticUnrolled(*expected))
    assert unrolled.code.code.shape == unrolled.afterstate.outcome_logits.shape == (3, 4, 3)


def test_the_gradient_that_enters_a_step_is_scaled():
    """Only the last prediction counts, through two steps: a scale of 1/2 leaves a quarter for the encoder."""
    model = noisy(small_stochastic_model())
    observation, action = torch.randn(2, 3, 4), torch.randint(2, (2, 2))
    gradients = []
    for scale in (1.0, 0.5):
        model.zero_grad()
        stochastic_unroll(model, observation, action, scale).prediction.value_logits[:, -1].square().sum().backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model._encoding.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0] / 4, rtol=1e-3, atol=1e-7)
    assert gradients[0].abs().max() > 0


def test_chance_losses_by_hand():
    """Outcome 1 happened; the afterstate gave it 1/4; the encoder said (1/2, 2, 0), which is 1/4 + 1 from its code."""
    model = small_stochastic_model()
    unrolled = stochastic_unroll(model, torch.randn(1, 2, 4), torch.zeros(1, 1).long(), 1.0)
    embedding = torch.tensor([[[0.5, 2.0, 0.0]]], requires_grad=True)
    code = torch.tensor([[[0.0, 1.0, 0.0]]]) + (embedding - embedding.detach())
    logits = torch.tensor([[[0.5, 0.25, 0.25]]]).log()
    unrolled = unrolled._replace(
        code=unrolled.code._replace(code=code, embedding=embedding),
        afterstate=unrolled.afterstate._replace(outcome_logits=logits),
    )
    outcome_loss, commitment_loss = chance_losses(unrolled)
    assert outcome_loss.tolist() == [[pytest.approx(1.386294)]]
    assert commitment_loss.tolist() == [[1.25]]
    assert not outcome_loss.requires_grad  # the code is a target
    (gradient,) = torch.autograd.grad(commitment_loss.sum(), embedding)
    assert gradient.tolist() == [[[1.0, 2.0, 0.0]]]


def test_it_has_no_value_prefix():
    message = r"model is a StochasticMCTSModel, which has chance outcomes; .*: set .*\.model = @SimpleMCTSModel"
    with pytest.raises(ValueError, match=message):
        ValuePrefixMCTSModel(OBSERVATION, ACTION, small_stochastic_model, value_prefix_support=small_support())
