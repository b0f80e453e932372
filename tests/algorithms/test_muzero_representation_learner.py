"""The latent for other algorithms, and how it is trained."""

import functools

import gin
import pytest
import torch
from agent_parts import ACTION, CONFIG, OBSERVATION, make_learner
from muzero_parts import small_model, small_support

from alfish import specs
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.muzero_representation_learner import (
    MuzeroRepresentationLearner,
    MuzeroRepresentationTrainingOptions,
)
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.data_structures import time_step_spec
from alfish.models.value_prefix_mcts_model import ValuePrefixMCTSModel
from alfish.networks.muzero_image_networks import ImageDynamics, ImageEncoding, ImagePrediction
from alfish.networks.value_prefix_network import RecurrentValuePrefix
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import TensorSpec

IMAGE = TensorSpec((1, 16, 16))


def rows(observation_spec, num_rows):
    time_step = specs.zeros(time_step_spec(observation_spec, ACTION), (num_rows,))
    return time_step._replace(observation=torch.randn(num_rows, *observation_spec.shape))


def image_model(observation_spec, action_spec):
    return small_model(
        observation_spec,
        action_spec,
        encoding_network=functools.partial(ImageEncoding, channels=4, num_blocks=1),
        dynamics_network=ImageDynamics,
        prediction_network=ImagePrediction,
    )


def prefix_model(observation_spec, action_spec):
    network = functools.partial(RecurrentValuePrefix, state_size=16, hidden_sizes=(16,))
    inner = functools.partial(small_model, reward_support=None)
    return ValuePrefixMCTSModel(observation_spec, action_spec, inner, network, small_support(4.0, 9))


def test_the_output_is_the_latent_without_gradient():
    learner = make_learner(trained=False)
    time_step = rows(OBSERVATION, 5)
    expected = learner.impl.model.encode(time_step.observation)
    for step in (learner.predict_step, learner.rollout_step):
        latent = step(time_step, ()).output
        assert torch.equal(latent, expected)
        assert not latent.requires_grad


@pytest.mark.parametrize(
    ("observation_spec", "model", "latent_spec"),
    [
        (OBSERVATION, small_model, TensorSpec((8,))),
        (IMAGE, image_model, TensorSpec((4, 1, 1))),
        (OBSERVATION, prefix_model, TensorSpec((8,))),  # without the state of the value prefix
    ],
)
def test_the_latent_spec_is_that_of_the_output(observation_spec, model, latent_spec):
    learner = make_learner(observation_spec, model=model).eval()
    assert learner.latent_spec == latent_spec
    latent = learner.predict_step(rows(observation_spec, 3), ()).output
    assert specs.spec_of(latent, outer_dims=1) == latent_spec


def test_statistics_of_batch_normalisation_do_not_see_the_row_of_zeros():
    learner = make_learner(IMAGE, model=image_model)
    batches = [buffer for name, buffer in learner.named_buffers() if name.endswith("num_batches_tracked")]
    assert batches
    assert not any(batches)
    assert learner.training
    assert all(module.training for module in learner.impl.model.modules())


def test_without_options_it_is_frozen():
    learner = make_learner(trained=False)
    assert learner.training_tasks() == []
    assert not any(parameter.requires_grad for parameter in learner.parameters())


def test_with_options_it_has_a_task():
    gin.parse_config([CONFIG, "MuzeroRepresentationTrainingOptions.interval = 3"])
    learner = make_learner(trained=True)
    (task,) = learner.training_tasks()
    assert (task.name, task.algorithm, task.options.interval) == ("representation", learner.impl, 3)
    assert all(parameter.requires_grad for parameter in learner.impl.model.parameters())


@pytest.mark.parametrize("interval", [0, -1])
def test_the_interval_is_at_least_1(interval):
    gin.parse_config([CONFIG, f"MuzeroRepresentationTrainingOptions.interval = {interval}"])
    with pytest.raises(ValueError, match=rf"MuzeroRepresentationTrainingOptions.interval is {interval}"):
        MuzeroRepresentationTrainingOptions()


def test_reanalysis_of_a_frozen_representation_is_refused():
    with pytest.raises(ValueError, match=r"reanalysis is given, but MuzeroRepresentationLearner\.training is None"):
        make_learner(reanalysis=Reanalysis(0.5, None), target_update=TargetUpdate())
    make_learner(reanalysis=Reanalysis(0.0, None))


def test_what_learns_no_model_is_refused():
    message = r"MuzeroRepresentationLearner\.representation makes a PPOAlgorithm; expected .* = @Muzero"
    with pytest.raises(ValueError, match=message):
        MuzeroRepresentationLearner(OBSERVATION, ACTION, PPOAlgorithm)
