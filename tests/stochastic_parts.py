"""Small stochastic models for tests."""

import functools

from muzero_parts import ACTION, OBSERVATION, small_support

from alfish.models.stochastic_mcts_model import StochasticMCTSModel
from alfish.networks.muzero_vector_networks import VectorDynamics, VectorEncoding, VectorPrediction
from alfish.networks.vector_chance_encoder import VectorChanceEncoder


def small_stochastic_model(observation_spec=OBSERVATION, action_spec=ACTION, num_outcomes=3, **options):
    """A StochasticMCTSModel of vector networks."""

    def small(network, **sizes):
        return functools.partial(network, hidden_sizes=(32,), **sizes)

    parts = {
        "encoding_network": small(VectorEncoding, latent_size=16),
        "prediction_network": small(VectorPrediction),
        "afterstate_network": small(VectorDynamics),
        "afterstate_prediction_network": small(VectorPrediction),
        "dynamics_network": small(VectorDynamics),
        "chance_encoder": small(VectorChanceEncoder),
        "value_support": small_support(3.0, 13),
        "reward_support": small_support(3.0, 13),
    }
    return StochasticMCTSModel(observation_spec, action_spec, num_outcomes, **(parts | options))
