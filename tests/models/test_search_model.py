import pytest
import torch
from muzero_parts import PlainModel, small_model

from alfish.models.search_model import SearchModel
from alfish.networks.latents import normalize_latent

LATENT = torch.tensor([[2.0], [3.0]])
ACTION = torch.tensor([0, 1])


def doubling_model(**options):
    model = PlainModel(logits=(1.0, -1.0), **options)
    model.growth.data.fill_(2.0)
    return model


def test_root():
    root = SearchModel(doubling_model(), 0.9).root(LATENT)
    assert root.latent.tolist() == [[2.0], [3.0]]
    assert root.value.tolist() == [2.0, 3.0]
    assert root.prior_logits.tolist() == [[1.0, -1.0], [1.0, -1.0]]


def test_illegal_actions_of_the_root():
    mask = torch.tensor([[True, False], [True, True]])
    root = SearchModel(doubling_model(), 0.9).root(LATENT, mask)
    assert root.prior_logits.tolist() == [[1.0, -torch.inf], [1.0, -1.0]]


def test_step():
    step = SearchModel(doubling_model(), 0.5).step(LATENT, ACTION)
    assert step.latent.tolist() == [[4.0], [6.0]]
    assert step.reward.tolist() == [4.0, 6.0]
    assert step.value.tolist() == [4.0, 6.0]
    assert step.discount.tolist() == [0.5, 0.5]
    assert step.prior_logits.tolist() == [[1.0, -1.0], [1.0, -1.0]]


def test_without_rewards_they_are_0():
    step = SearchModel(doubling_model(predicts_reward=False), 0.5).step(LATENT, ACTION)
    assert step.reward.tolist() == [0.0, 0.0]
    assert step.value.tolist() == [4.0, 6.0]


def test_the_discount_with_a_game_over_head():
    # γ (1 − sigmoid(logit)): an even chance, a sure end, a sure continuation.
    model = doubling_model(predicts_game_over=True)
    plain = model.predict
    model.predict = lambda latent: plain(latent)._replace(game_over_logit=torch.tensor([0.0, 50.0, -50.0]))
    step = SearchModel(model, 0.8).step(torch.ones(3, 1), torch.zeros(3).long())
    assert step.discount.tolist() == pytest.approx([0.4, 0.0, 0.8], abs=1e-6)


def test_it_is_the_model_one_piece_after_the_other():
    model = small_model(predict_game_over=True).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    latent, action = normalize_latent(torch.randn(5, 8)), torch.randint(2, (5,))
    step = SearchModel(model, 0.9).step(latent, action)
    dynamics = model.step(latent, action)
    prediction = model.predict(dynamics.latent)
    torch.testing.assert_close(step.latent, dynamics.latent)
    torch.testing.assert_close(step.reward, model.reward_of(dynamics.reward_logits))
    torch.testing.assert_close(step.value, model.value_of(prediction.value_logits))
    torch.testing.assert_close(step.prior_logits, prediction.policy_logits)
    torch.testing.assert_close(step.discount, 0.9 * (1.0 - torch.sigmoid(prediction.game_over_logit)))


def test_two_players_alternate():
    model = PlainModel(predicts_game_over=True)
    step = SearchModel(model, 0.8, players=2).step(torch.ones(2, 1), torch.zeros(2).long())
    assert step.discount.tolist() == pytest.approx([-0.4, -0.4])
    assert step.to_play is None


def test_a_model_that_predicts_who_moves():
    model = doubling_model()
    model.predicts_to_play = True
    model.to_play = lambda latent: (latent[:, 0] > 1.5).long()
    searched = SearchModel(model, 0.8, players=2)
    assert searched.root(torch.tensor([[1.0], [2.0]])).to_play.tolist() == [0, 1]
    step = searched.step(torch.tensor([[1.0], [0.5]]), torch.zeros(2).long())
    assert step.to_play.tolist() == [1, 0]
    assert step.discount.tolist() == pytest.approx([0.8, 0.8])
    assert SearchModel(model, 0.8).root(torch.tensor([[1.0]])).to_play is None


def test_other_numbers_of_players_are_refused():
    with pytest.raises(ValueError, match="SearchModel.players is 3; it must be 1 or 2"):
        SearchModel(PlainModel(), 0.8, players=3)
