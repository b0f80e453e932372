import functools

import pytest
import torch
from muzero_parts import OBSERVATION, small_support

from alfish.mcts.proposals import ProposalSettings
from alfish.mcts.search import search
from alfish.models.continuous_mcts_model import ContinuousMCTSModel
from alfish.models.sampled_model import SampledModel
from alfish.models.search_model import SearchModel
from alfish.models.unroll import unroll
from alfish.networks.muzero_image_networks import ImageDynamics, ImageEncoding
from alfish.networks.muzero_vector_networks import VectorDynamics, VectorEncoding, VectorPrediction
from alfish.ops.policy_losses import candidate_cross_entropy
from alfish.specs import BoundedTensorSpec, TensorSpec

BOX = BoundedTensorSpec((2,), torch.float32, (-2.0, 0.0), (2.0, 10.0))
SEVERAL = BoundedTensorSpec((2,), torch.int64, 0, (2, 1))


def continuous_model(action_spec=BOX, observation_spec=OBSERVATION, **options):
    parts = {
        "encoding_network": functools.partial(VectorEncoding, latent_size=8, hidden_sizes=(16,)),
        "dynamics_network": functools.partial(VectorDynamics, hidden_sizes=(16,)),
        "prediction_network": functools.partial(VectorPrediction, hidden_sizes=(16,)),
        "value_support": small_support(),
        "reward_support": small_support(2.0, 9),
    }
    return ContinuousMCTSModel(observation_spec, action_spec, **(parts | options))


def test_a_new_model_acts_around_the_middle_of_the_box():
    model = continuous_model(predict_game_over=True)
    prediction = model.predict(model.encode(torch.randn(3, 4)))
    assert prediction.policy_logits.shape == (3, 4)
    assert prediction.game_over_logit.tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(model.value_of(prediction.value_logits), torch.zeros(3))
    drawn = model.action_policy.sample(prediction.policy_logits, 3000, generator=torch.Generator().manual_seed(0))
    unit = model.action_policy.as_vector(drawn)
    torch.testing.assert_close(unit.mean((0, 1)), torch.zeros(2), atol=0.03, rtol=0)
    torch.testing.assert_close((unit.abs() < 0.5).float().mean((0, 1)), torch.full((2,), 0.683), atol=0.03, rtol=0)


def test_dynamics_see_the_action_in_units_of_the_box():
    model = continuous_model()
    latent = model.encode(torch.randn(2, 4))
    action = torch.tensor([[1.0, 2.5], [-2.0, 10.0]])
    dynamics = model.step(latent, action)
    expected, _ = model._dynamics(latent, torch.tensor([[0.5, -0.5], [-1.0, 1.0]]))
    torch.testing.assert_close(dynamics.latent, expected)
    other = model.step(latent, action.flip(0)).latent
    assert (other != dynamics.latent).any(1).all()


def test_a_one_hot_vector_is_the_number_of_an_action():
    dynamics = VectorDynamics((8,), 5, 3)
    torch.nn.init.normal_(dynamics._layers.output.weight)
    latent, action = torch.rand(4, 8), torch.tensor([0, 4, 2, 2])
    one_hot = torch.nn.functional.one_hot(action, 5).float()
    torch.testing.assert_close(dynamics(latent, action), dynamics(latent, one_hot))


@pytest.mark.parametrize("spec", [BOX, SEVERAL, BoundedTensorSpec((), torch.float32, -1, 1)])
def test_it_is_searched_and_unrolled(spec):
    model = continuous_model(spec).eval()
    sampled = SampledModel(SearchModel(model, 0.9), model.action_policy, ProposalSettings(5))
    with torch.no_grad():
        root = sampled.root(torch.randn(3, 4))
        result = search(root, sampled.step, 10)
    assert root.latent.candidates.shape == (3, 5, *spec.shape)
    assert (result.visits.sum(1) == 10).all()
    unrolled = unroll(model, torch.randn(3, 4), root.latent.candidates[:, :2], 0.5)
    assert unrolled.prediction.policy_logits.shape == (3, 3, model.action_policy.num_parameters)
    assert unrolled.reward_logits.shape == (3, 2, 9)


@pytest.mark.parametrize("spec", [BOX, SEVERAL])
def test_training_moves_the_policy_to_what_a_search_found(spec):
    torch.manual_seed(0)
    model = continuous_model(spec)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    observation = torch.randn(6, 4)
    candidates = model.action_policy.sample(torch.zeros(6, model.action_policy.num_parameters), 4)
    policy = torch.tensor([0.0, 0.9, 0.0, 0.1]).expand(6, -1)

    def log_prob():
        return model.action_policy.log_prob(model.predict(model.encode(observation)).policy_logits, candidates)

    before = log_prob().detach()
    for _ in range(30):
        optimizer.zero_grad()
        candidate_cross_entropy(policy, log_prob()).mean().backward()
        optimizer.step()
    assert ((log_prob() - before)[:, 1] > 0.2).all()


def test_networks_that_read_numbers_of_actions_are_refused():
    with pytest.raises(ValueError, match="dynamics_network is a ImageDynamics, which reads the number"):
        continuous_model(
            observation_spec=TensorSpec((1, 20, 20)),
            encoding_network=functools.partial(ImageEncoding, channels=4),
            dynamics_network=ImageDynamics,
        )
    with pytest.raises(ValueError, match="no action distribution"):
        continuous_model((BOX,))
