import pytest
import torch
from muzero_parts import small_model, small_support

from alfish.ops.scalar_supports import OrderedSupport, QuantileSupport, SquaredSupport
from alfish.ops.value_transforms import CategoricalSupport, IdentityTransform, SignedHyperbolicTransform
from alfish.specs import BoundedTensorSpec


def test_a_new_model_has_uniform_policies_and_zero_values_and_rewards():
    model = small_model(predict_game_over=True)
    latent = model.encode(torch.randn(3, 4))
    prediction = model.predict(latent)
    torch.testing.assert_close(torch.softmax(prediction.policy_logits, dim=1), torch.full((3, 2), 0.5))
    torch.testing.assert_close(model.value_of(prediction.value_logits), torch.zeros(3))
    torch.testing.assert_close(model.reward_of(model.step(latent, torch.zeros(3).long()).reward_logits), torch.zeros(3))
    assert prediction.game_over_logit.tolist() == [0.0, 0.0, 0.0]


def test_values_and_rewards_by_hand():
    # Bins at -1, 0, 1; probabilities 1/4, 1/4, 1/2.
    support = lambda: CategoricalSupport(-1.0, 1.0, 3)  # noqa: E731
    model = small_model(value_support=support, reward_support=support)
    logits = torch.tensor([1.0, 1.0, 2.0]).log()
    assert model.value_of(logits).item() == pytest.approx(0.25)
    assert model.reward_of(logits).item() == pytest.approx(0.25)
    # -log of the probability of 1; half of it and half of that of 0.
    assert model.value_loss(logits, torch.tensor(1.0)).item() == pytest.approx(0.693147, abs=1e-5)
    assert model.reward_loss(logits, torch.tensor(0.5)).item() == pytest.approx((0.693147 + 1.386294) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("transform", "together"),
    [(SignedHyperbolicTransform(), True), (SignedHyperbolicTransform(0.01), False), (IdentityTransform(), False)],
)
def test_decoding_together_is_decoding_each(transform, together):
    model = small_model(reward_support=lambda: CategoricalSupport(-3.0, 3.0, 7, transform))
    assert model._one_transform == together
    value_logits, reward_logits = torch.randn(6, 11), torch.randn(6, 7)
    value, reward = model.value_and_reward_of(value_logits, reward_logits)
    torch.testing.assert_close(value, model.value_of(value_logits), rtol=0.0, atol=0.0)
    torch.testing.assert_close(reward, model.reward_of(reward_logits), rtol=0.0, atol=0.0)


def test_heads_that_are_not_asked_for():
    model = small_model(reward_support=None)
    assert (model.predicts_reward, model.predicts_game_over) == (False, False)
    latent = model.encode(torch.randn(3, 4))
    assert model.step(latent, torch.zeros(3).long()).reward_logits == ()
    assert model.predict(latent).game_over_logit == ()


@pytest.mark.parametrize(
    "action_spec",
    [
        BoundedTensorSpec((2,), torch.int64, 0, 1),
        BoundedTensorSpec((), torch.float32, 0, 1),
        (BoundedTensorSpec((), torch.int64, 0, 1),),
    ],
)
def test_other_actions_are_refused(action_spec):
    with pytest.raises(ValueError, match="one discrete action"):
        small_model(action_spec=action_spec)


def test_the_number_of_actions_does_not_depend_on_where_they_start():
    assert small_model(action_spec=BoundedTensorSpec((), torch.int64, 3, 7)).num_actions == 5


def test_small_support_reaches_its_ends():
    support = small_support()()
    assert support.to_scalar(torch.eye(11)[[0, 10]] * 1e4).abs().min() > 20.0


def test_transforms_that_are_the_same():
    assert SignedHyperbolicTransform() == SignedHyperbolicTransform(0.001)
    assert SignedHyperbolicTransform() != SignedHyperbolicTransform(0.002)
    assert SignedHyperbolicTransform() != IdentityTransform()
    assert len({SignedHyperbolicTransform(), SignedHyperbolicTransform(), IdentityTransform()}) == 2


SUPPORTS = {
    "ordered": lambda: OrderedSupport(-3.0, 3.0, 7, SignedHyperbolicTransform()),
    "quantile": lambda: QuantileSupport(5, transform=SignedHyperbolicTransform()),
    "squared": lambda: SquaredSupport(SignedHyperbolicTransform()),
}


@pytest.mark.parametrize("value", SUPPORTS)
@pytest.mark.parametrize("reward", SUPPORTS)
def test_any_two_supports_go_together(value, reward):
    model = small_model(value_support=SUPPORTS[value], reward_support=SUPPORTS[reward])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    dynamics = model.step(model.encode(torch.randn(3, 4)), torch.zeros(3).long())
    prediction = model.predict(dynamics.latent)
    assert prediction.value_logits.shape == (3, SUPPORTS[value]().num_outputs)
    assert dynamics.reward_logits.shape == (3, SUPPORTS[reward]().num_outputs)
    both = model.value_and_reward_of(prediction.value_logits, dynamics.reward_logits)
    torch.testing.assert_close(both[0], SUPPORTS[value]().to_scalar(prediction.value_logits), rtol=0.0, atol=0.0)
    torch.testing.assert_close(both[1], model.reward_of(dynamics.reward_logits), rtol=0.0, atol=0.0)
    target = torch.tensor([0.5, -1.0, 2.0])
    expected = SUPPORTS[reward]().loss(dynamics.reward_logits, target)
    torch.testing.assert_close(model.reward_loss(dynamics.reward_logits, target), expected)
