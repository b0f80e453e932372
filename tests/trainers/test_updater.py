"""The gradient step and its guard."""

import copy
import functools

import pytest
import torch
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.data_structures import LossInfo, Progress, StepType, TimeStep
from alfish.trainers.batch_source import TrainBatch
from alfish.trainers.updater import MeanOfUpdates, NonFiniteUpdates, Updater


def make_algorithm(kind=TinyAlgorithm):
    torch.manual_seed(0)
    return kind(ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec)


def make_updater(algorithm, **settings):
    return Updater(algorithm, **({"optimizer": torch.optim.SGD, "learning_rate": 0.1} | settings))


def make_batch(observation, target, step_type=StepType.MID, weight=()):
    observation = torch.tensor(observation)
    outer = observation.shape[:2]
    inputs = TimeStep(
        step_type=torch.full(outer, step_type, dtype=torch.uint8) if isinstance(step_type, int) else step_type,
        reward=torch.zeros(outer),
        discount=torch.ones(outer),
        observation=observation,
        prev_action=torch.zeros(outer, dtype=torch.int64),
        env_id=torch.zeros(outer, dtype=torch.int32),
    )
    return TrainBatch(inputs, torch.tensor(target), weight)


def weights(algorithm):
    return torch.cat([parameter.detach().flatten().clone() for parameter in algorithm.parameters()])


def test_a_step_by_hand():
    algorithm = make_algorithm()
    torch.nn.init.zeros_(algorithm.layer.weight)
    torch.nn.init.zeros_(algorithm.layer.bias)
    # Prediction 0, target 1: the loss is 1, its gradient −2x and −2.
    metrics, priority = make_updater(algorithm).update(make_batch([[[1.0, 2.0, 0.0]]], [[1.0]]), Progress())
    assert priority == ()
    assert metrics["loss"].item() == pytest.approx(1.0)
    assert metrics["gradient_norm"].item() == pytest.approx((4 + 16 + 4) ** 0.5)
    assert weights(algorithm).tolist() == pytest.approx([0.2, 0.4, 0.0, 0.2])


def test_the_gradient_is_clipped():
    algorithm = make_algorithm()
    before = weights(algorithm)
    make_updater(algorithm, max_gradient_norm=1e-3).update(make_batch([[[1.0, 2.0, 3.0]]], [[9.0]]), Progress())
    assert (weights(algorithm) - before).norm().item() == pytest.approx(1e-4, rel=1e-3)


def test_last_rows_and_importance_weights():
    algorithm = make_algorithm()
    observation = [[[1.0, 0.0, 0.0], [5.0, 5.0, 5.0]]]
    step_type = torch.tensor([[StepType.MID, StepType.LAST]], dtype=torch.uint8)
    updater = make_updater(algorithm)
    both = updater.update(make_batch(observation, [[0.0, 99.0]], step_type), Progress()).metrics["loss"]
    algorithm = make_algorithm()
    one = make_updater(algorithm).update(make_batch([[[1.0, 0.0, 0.0]]], [[0.0]]), Progress()).metrics["loss"]
    assert both.item() == pytest.approx(one.item())
    algorithm = make_algorithm()
    weighted = make_batch([[[1.0, 0.0, 0.0]]], [[0.0]], weight=torch.tensor([0.5]))
    assert make_updater(algorithm).update(weighted, Progress()).metrics["loss"].item() == pytest.approx(one.item() / 2)


def test_learning_rate_schedule():
    updater = make_updater(make_algorithm(), learning_rate=lambda fraction: 1.0 - fraction / 2)
    batch = make_batch([[[1.0, 0.0, 0.0]]], [[0.0]])
    assert updater.update(batch, Progress(fraction=0.0)).metrics["learning_rate"] == 1.0
    assert updater.update(batch, Progress(fraction=0.5)).metrics["learning_rate"] == 0.75


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_updates_that_are_not_finite_are_skipped_and_then_stop(bad):
    algorithm = make_algorithm()
    updater = make_updater(algorithm, optimizer=torch.optim.Adam, max_skipped_updates=3)
    good = make_batch([[[1.0, 0.0, 0.0]]], [[0.0]])
    broken = make_batch([[[bad, 0.0, 0.0]]], [[0.0]])
    updater.update(good, Progress())
    before, state = weights(algorithm), str(updater.state_dict()["optimizer"])
    for _ in range(2):
        assert updater.update(broken, Progress()).metrics["skipped"] == 1.0
    assert torch.equal(before, weights(algorithm))
    assert str(updater.state_dict()["optimizer"]) == state
    assert updater.update(good, Progress()).metrics["skipped"] == 0.0  # and starts the count anew
    for _ in range(2):
        updater.update(broken, Progress())
    with pytest.raises(NonFiniteUpdates, match="3 updates in a row were not finite"):
        updater.update(broken, Progress())
    assert torch.isfinite(weights(algorithm)).all()


def test_state_round_trip():
    batch = make_batch([[[1.0, 2.0, 0.0]]], [[1.0]])
    algorithm = make_algorithm()
    updater = make_updater(algorithm, optimizer=torch.optim.Adam)
    updater.update(batch, Progress())
    other_algorithm = make_algorithm()
    other_algorithm.load_state_dict(algorithm.state_dict())
    other = make_updater(other_algorithm, optimizer=torch.optim.Adam)
    other.load_state_dict(copy.deepcopy(updater.state_dict()))
    for each in (updater, other):
        each.update(batch, Progress())
    assert torch.equal(weights(algorithm), weights(other_algorithm))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": lambda fraction: 0.1 - fraction}, "learning_rate is -.* at 11 % of the run"),
        ({"max_gradient_norm": -1.0}, "max_gradient_norm is -1.0"),
        ({"max_skipped_updates": 0}, "max_skipped_updates is 0"),
        ({"optimizer": torch.nn.Linear}, "^Updater.optimizer is Linear, which takes no learning rate as lr; expected"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_updater(make_algorithm(), **settings)


def test_a_skipped_update_takes_running_statistics_back():
    class Normalised(TinyAlgorithm):
        def __init__(self, observation_spec, action_spec):
            super().__init__(observation_spec, action_spec)
            self.layer = torch.nn.Sequential(torch.nn.BatchNorm1d(3), self.layer)

    algorithm = make_algorithm(Normalised)
    updater = make_updater(algorithm)
    updater.update(make_batch([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]], [[0.0], [1.0]]), Progress())
    before = [buffer.clone() for buffer in algorithm.buffers()]
    broken = make_batch([[[float("nan"), 0.0, 0.0]], [[0.0, 1.0, 0.0]]], [[0.0], [1.0]])
    assert updater.update(broken, Progress()).metrics["skipped"] == 1.0
    for buffer, expected in zip(algorithm.buffers(), before, strict=True):
        assert torch.equal(buffer, expected)


def test_settings_of_the_optimiser_are_those_of_the_config():
    algorithm = make_algorithm()
    updater = make_updater(algorithm, optimizer=torch.optim.Adam)
    updater.update(make_batch([[[1.0, 2.0, 0.0]]], [[1.0]]), Progress())
    other = make_updater(algorithm, optimizer=functools.partial(torch.optim.Adam, eps=0.5))
    other.load_state_dict(copy.deepcopy(updater.state_dict()))
    optimizer = other.state_dict()["optimizer"]
    assert optimizer["param_groups"][0]["eps"] == 0.5
    assert len(optimizer["state"]) == 2


def test_another_optimiser_is_refused():
    state = make_updater(make_algorithm(), optimizer=torch.optim.Adam).state_dict()
    with pytest.raises(ValueError, match="made with the optimiser Adam, this run has SGD"):
        make_updater(make_algorithm()).check_state_dict(state)


def test_nothing_to_train():
    class Frozen(TinyAlgorithm):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.requires_grad_(False)

    with pytest.raises(ValueError, match="Frozen has no parameters"):
        make_updater(make_algorithm(Frozen))


def test_scalar_and_row_extras_are_averaged():
    class Reporting(TinyAlgorithm):
        def calc_loss(self, info):
            loss = super().calc_loss(info).loss
            return LossInfo(loss, {"rows": torch.tensor([[1.0, 3.0]]), "scalar": torch.tensor(5.0)})

    updater = make_updater(make_algorithm(Reporting))
    metrics = updater.update(make_batch([[[0.0] * 3] * 2], [[0.0, 0.0]]), Progress()).metrics
    assert metrics["rows"].item() == 2.0
    assert metrics["scalar"].item() == 5.0


class Prioritising(TinyAlgorithm):
    def calc_loss(self, info):
        loss = super().calc_loss(info).loss
        return LossInfo(loss, {}, priority=loss.detach().sum(1))


def test_priorities_are_handed_on_unless_the_step_is_skipped():
    updater = make_updater(make_algorithm(Prioritising))
    good = make_batch([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]], [[0.0], [1.0]])
    expected = updater._algorithm.layer(good.inputs.observation).flatten().sub(torch.tensor([0.0, 1.0])).square()
    assert torch.allclose(updater.update(good, Progress()).priority, expected)
    broken = make_batch([[[float("inf"), 0.0, 0.0]]], [[0.0]])
    assert updater.update(broken, Progress()).priority == ()


def test_parts_that_are_trained_apart_are_left_alone():
    class TwoParts(TinyAlgorithm):
        def __init__(self, observation_spec, action_spec):
            super().__init__(observation_spec, action_spec)
            self.part = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))

        def train_step(self, inputs, state, rollout_info):
            return super().train_step(inputs._replace(observation=self.part(inputs.observation)), state, rollout_info)

    algorithm = make_algorithm(TwoParts)
    updater = make_updater(algorithm, trained_apart=[algorithm.part])
    before, layer_before = weights(algorithm.part), weights(algorithm.layer)
    updater.update(make_batch([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]], [[0.0], [1.0]]), Progress())
    assert torch.equal(before, weights(algorithm.part))
    assert not torch.equal(layer_before, weights(algorithm.layer))
    with pytest.raises(ValueError, match="TwoParts has no parameters"):
        make_updater(algorithm, trained_apart=[algorithm.part, algorithm.layer])


def test_mean_of_updates():
    means = MeanOfUpdates()
    means.add({"loss": torch.tensor(1.0)})
    other = MeanOfUpdates()
    other.load_state_dict(means.state_dict())
    other.add({"loss": torch.tensor(4.0), "rare": torch.tensor(7.0)})
    assert other.result_and_reset() == {"loss": 2.5, "rare": 7.0}
    assert other.result_and_reset() == {}
