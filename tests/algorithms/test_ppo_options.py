"""PPO's options: stopping by the KL divergence, schedules, encoders, masks and families of actions."""

import functools
import math

import gin
import pytest
import torch
from support import ScriptedEnvironment
from trainer_parts import closed_after_test

from alfish import nest, specs
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.data_structures import BatchInfo, Progress, StepType, time_step_spec
from alfish.networks.encoders import MLPEncoder
from alfish.networks.image_encoder import ImageEncoder
from alfish.ops.schedules import LinearSchedule
from alfish.specs import BoundedTensorSpec, TensorSpec
from alfish.trainers.experiment import Experiment
from alfish.trainers.on_policy_batches import OnPolicyBatches
from alfish.trainers.trainer import Trainer

OBSERVATION = TensorSpec((3,))
DISCRETE = BoundedTensorSpec((), torch.int64, 0, 2)
BOX = BoundedTensorSpec((2,), torch.float32, (-1.0, 0.0), (1.0, 0.5))
MASKED = {"board": OBSERVATION, "legal": BoundedTensorSpec((3,), torch.int8, 0, 1)}


def random_rows(algorithm, num_envs=4, length=6):
    """Rows `[B, T+1]` with random observations, of one episode each."""
    rows = specs.zeros(time_step_spec(algorithm.observation_spec, algorithm.action_spec), (num_envs, length + 1))
    rows.step_type.fill_(StepType.MID)
    for leaf in nest.leaves(rows.observation):
        leaf.random_(0, 2) if not leaf.is_floating_point() else leaf.normal_()
    return rows._replace(discount=torch.ones_like(rows.discount), reward=torch.randn_like(rows.reward))


def collect(algorithm, rows):
    """What `rollout_step` answers to all but the last rows: the actions, and the info, `[B, T, ...]`."""
    length = rows.reward.shape[1] - 1
    with torch.inference_mode():
        steps = [
            algorithm.rollout_step(nest.map_structure(lambda leaf, t=t: leaf[:, t], rows), ()) for t in range(length)
        ]
    return nest.map_structure(
        lambda *leaves: torch.stack(leaves, dim=1).clone(), *((step.output, step.info) for step in steps)
    )


def loss_info(algorithm, rows, action, info):
    """The loss of these rows, as the updater computes it."""
    inputs, train_info = algorithm.preprocess_experience(rows, info, BatchInfo(action, torch.zeros(rows.reward.shape)))
    outer = inputs.reward.shape
    flat = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, train_info))
    step = algorithm.train_step(flat[0], (), flat[1])
    return algorithm.calc_loss(nest.map_structure(lambda leaf: leaf.unflatten(0, outer), step.info))


@pytest.mark.parametrize(
    ("action_spec", "family"),
    [
        (BOX, "normal"),
        (BOX, "squashed_normal"),
        (BOX, "beta"),
        ({"arm": BOX, "grip": (DISCRETE, BoundedTensorSpec((2,), torch.int32, 0, 3))}, "normal"),
        ({"arm": BOX, "grip": (DISCRETE, BoundedTensorSpec((2,), torch.int32, 0, 3))}, "beta"),
    ],
)
def test_families_of_actions_end_to_end(action_spec, family):
    torch.manual_seed(0)
    algorithm = PPOAlgorithm(OBSERVATION, action_spec, box_distribution=family, entropy_weight=0.01)
    rows = random_rows(algorithm)
    action, info = collect(algorithm, rows)
    for spec, leaf in zip(nest.leaves(action_spec), nest.leaves(action), strict=True):
        minimum, maximum = spec.bounds()
        assert leaf.shape == (4, 6, *spec.shape) and leaf.dtype == spec.dtype
        assert (leaf >= minimum).all() and (leaf <= maximum).all()
    result = loss_info(algorithm, rows, action, info)
    # Nothing has been learned: the ratio is 1.
    assert result.extra["approximate_kl"].item() == pytest.approx(0.0, abs=1e-5)
    assert result.extra["clip_fraction"].item() == 0.0
    result.loss.mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in algorithm.parameters())
    predicted = algorithm.predict_step(nest.map_structure(lambda leaf: leaf[:, 0], rows), ()).output
    nest.check_same_structure(action, predicted, "the predicted action")


def test_illegal_actions_are_neither_taken_nor_learned_of():
    torch.manual_seed(0)
    algorithm = PPOAlgorithm(MASKED, DISCRETE, legal_mask_key="legal", entropy_weight=0.1)
    rows = random_rows(algorithm, num_envs=32)
    rows.observation["legal"][..., 1] = rows.observation["legal"][..., 0] == 0
    rows.observation["legal"][..., 2] = 0
    action, info = collect(algorithm, rows)
    legal = rows.observation["legal"][:, :-1].bool()
    assert legal.gather(-1, action.unsqueeze(-1)).all()
    # One action only is legal, so its probability is 1 and there is no entropy.
    torch.testing.assert_close(info.log_prob, torch.zeros(32, 6))
    result = loss_info(algorithm, rows, action, info)
    assert result.extra["entropy"].item() == pytest.approx(0.0, abs=1e-6)
    result.loss.mean().backward()
    assert not algorithm.policy.network.policy.output.weight.grad.any()
    predicted = algorithm.predict_step(nest.map_structure(lambda leaf: leaf[:, 0], rows), ()).output
    assert legal[:, 0].gather(-1, predicted.unsqueeze(-1)).all()
    rows.observation["legal"].zero_()
    with pytest.raises(ValueError, match="environment 0: the mask observation.*PPOAlgorithm.legal_mask_key = None"):
        algorithm.rollout_step(nest.map_structure(lambda leaf: leaf[:, 0], rows), ())


def test_an_encoder_stands_before_the_network_and_is_trained_with_it():
    observation = {"camera": TensorSpec((1, 6, 6), torch.uint8), "speed": TensorSpec((2,))}
    small = functools.partial(ImageEncoder, convolutions=((4, 3, 1),), num_features=5)
    algorithm = PPOAlgorithm(observation, DISCRETE, encoder=small)
    assert algorithm.policy.network.policy.input_size == 5
    rows = random_rows(algorithm)
    loss_info(algorithm, rows, *collect(algorithm, rows)).loss.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in algorithm.policy.encoder.parameters())


def test_the_entropy_weight_follows_its_schedule():
    algorithm = PPOAlgorithm(
        OBSERVATION, DISCRETE, entropy_weight=LinearSchedule(0.4), value_loss_weight=0.0, normalize_advantage=False
    )
    rows = random_rows(algorithm)
    action, info = collect(algorithm, rows)
    losses = []
    for fraction in (0.0, 0.5, 1.0):
        algorithm.after_train_iter(Progress(fraction=fraction))
        result = loss_info(algorithm, rows, action, info)
        losses.append(result.loss)
    entropy = result.extra["entropy"]
    assert entropy.item() == pytest.approx(math.log(3.0), rel=1e-2)  # hardly anything is preferred at the start
    torch.testing.assert_close((losses[2] - losses[0]).mean(), 0.4 * entropy)
    torch.testing.assert_close((losses[2] - losses[1]).mean(), 0.2 * entropy)


def test_whether_it_stops():
    assert not PPOAlgorithm(OBSERVATION, DISCRETE).may_stop_early
    algorithm = PPOAlgorithm(OBSERVATION, DISCRETE, target_kl=0.1)
    assert algorithm.may_stop_early
    assert not algorithm.stops_early({"approximate_kl": torch.tensor(0.09)})
    assert algorithm.stops_early({"approximate_kl": torch.tensor(0.11)})


def make_trainer(**options):
    gin.clear_config()
    settings = {
        "Updater.optimizer": torch.optim.Adam,
        "Updater.learning_rate": 0.05,
        "OnPolicyBatches.mini_batch_size": 8,
        "OnPolicyBatches.num_epochs": 10,
        "Evaluator.episodes": 1,
        "Trainer.batch_source": OnPolicyBatches,
        "Trainer.num_envs": 2,
        "Trainer.window_length": 8,
        "Trainer.total_env_steps": 64,
        "Trainer.summary_interval": 1000,
        "Trainer.evaluation_interval": None,
        "Trainer.checkpoint_interval": 1000,
    }
    for name, value in settings.items():
        gin.bind_parameter(name, value)
    algorithm = functools.partial(PPOAlgorithm, **options)
    return closed_after_test(
        Trainer(Experiment(environment=ScriptedEnvironment, algorithm=algorithm), torch.device("cpu"))
    )


def one_iteration(trainer):
    """The KL of each update of an iteration, and the metrics."""
    runner, seen = trainer.runners[0], []
    update = runner.updater.update

    def watched(batch, progress):
        updated = update(batch, progress)
        seen.append(float(updated.metrics["approximate_kl"]))
        return updated

    runner.updater.update = watched
    trainer._collect()
    runner.update(trainer.progress, False, lambda: False)
    return seen, runner.metrics_and_reset()


def test_an_update_that_moves_too_far_is_the_last_of_its_window():
    all_of_them, metrics = one_iteration(make_trainer())
    assert len(all_of_them) == 20 and "stopped_early" not in metrics
    target = sorted(all_of_them)[10]
    trainer = make_trainer(target_kl=target)
    some, metrics = one_iteration(trainer)
    # The same run up to there.
    assert some == all_of_them[: len(some)] and len(some) < 20
    assert some[-1] > target and all(kl <= target for kl in some[:-1])
    assert metrics["stopped_early"] == pytest.approx(1 / len(some))
    assert trainer.progress.updates == len(some)
    # The next window begins anew.
    again, _ = one_iteration(trainer)
    assert len(again) >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_kl": 0.0}, "PPOAlgorithm.target_kl is 0.0; expected a finite number above 0"),
        ({"target_kl": "0.1"}, "PPOAlgorithm.target_kl is '0.1'; expected a finite number above 0"),
        ({"clip_ratio": LinearSchedule(0.1, -0.1)}, "PPOAlgorithm.clip_ratio is -.* at 51 % of the run"),
        ({"target_kl": math.nan}, "PPOAlgorithm.target_kl is nan"),
        ({"entropy_weight": LinearSchedule(0.1, -0.1)}, "PPOAlgorithm.entropy_weight is -.* at 51 % of the run"),
        ({"encoder": MLPEncoder(OBSERVATION)}, "PPOAlgorithm.encoder is a MLPEncoder that is already built"),
        ({"encoder": ImageEncoder}, "ImageEncoder found no image"),
        ({"legal_mask_key": "legal"}, "PPOAlgorithm.legal_mask_key is 'legal'; expected a key of the observation"),
        ({"box_distribution": "gamma"}, "PPOAlgorithm.box_distribution is 'gamma'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PPOAlgorithm(OBSERVATION, DISCRETE, **arguments)


def test_a_network_in_a_scope_gets_the_family_too():
    gin.parse_config(
        "PPOAlgorithm.actor_critic = @policy/ActorCriticNetwork\npolicy/ActorCriticNetwork.hidden_sizes = (8,)"
    )
    algorithm = PPOAlgorithm(OBSERVATION, BOX, box_distribution="beta")
    assert algorithm.policy.distribution.num_parameters == 4
    assert algorithm.policy.network(torch.zeros(5, 3))[0].shape == (5, 4)


def test_unbounded_actions_cannot_be_beta():
    with pytest.raises(ValueError, match="without bounds"):
        PPOAlgorithm(OBSERVATION, BoundedTensorSpec((1,), torch.float32, -math.inf, math.inf), box_distribution="beta")
