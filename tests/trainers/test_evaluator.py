"""Evaluation: which episodes count, and that a run does not notice it."""

import pytest
import torch
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.networks.preprocessing import FrameStack, ObservationTransform
from alfish.trainers.evaluator import BestWeights, Evaluation, Evaluator


def make_evaluator(made, transform=ObservationTransform, **settings):
    seen = transform(ScriptedEnvironment.observation_spec)
    algorithm = TinyAlgorithm(seen.output_spec, ScriptedEnvironment.action_spec)

    def make_environment(num_envs):
        made.append(ScriptedEnvironment(num_envs))
        return made[-1]

    return Evaluator(algorithm, seen, make_environment, torch.device("cpu"), **settings)


def test_every_environment_plays_its_share():
    # Environment b's episodes have 3 + b steps and rewards: 7 episodes over 3 environments are 3, 2 and 2.
    evaluation = make_evaluator([], episodes=7, max_num_envs=3).evaluate(seed=0)
    assert evaluation.lengths.tolist() == [3, 3, 3, 4, 4, 5, 5]
    assert evaluation.returns.tolist() == [3, 3, 3, 4, 4, 5, 5]
    assert evaluation.mean == pytest.approx(27 / 7)


def test_fewer_episodes_than_environments():
    made = []
    assert make_evaluator(made, episodes=2, max_num_envs=20).evaluate(seed=0).lengths.tolist() == [3, 4]
    assert made[0].num_envs == 2


def test_frame_stacks():
    evaluator = make_evaluator([], lambda spec: FrameStack(spec, num_frames=2), episodes=2)
    assert evaluator.evaluate(seed=0).lengths.tolist() == [3, 4]


def test_random_numbers_and_mode_are_left_alone():
    evaluator = make_evaluator([], episodes=1)
    evaluator._algorithm.train()
    before = torch.get_rng_state()
    evaluator.evaluate(seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert evaluator._algorithm.training


def test_environments_are_made_once_and_closed():
    made = []
    evaluator = make_evaluator(made, episodes=2)
    evaluator.evaluate(seed=1)
    evaluator.evaluate(seed=1)
    assert len(made) == 1
    assert made[0].resets == [1, 1]
    evaluator.close()
    assert made[0].closed


@pytest.mark.parametrize(
    ("settings", "message"), [({"episodes": 0}, "episodes is 0"), ({"max_num_envs": 0}, "envs is 0")]
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make_evaluator([], **settings)


def test_best_weights_are_the_latest_of_the_best(tmp_path):
    algorithm = TinyAlgorithm(ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec)
    best = BestWeights(tmp_path / "best")
    file = tmp_path / "best" / "weights.pt"

    def offer(mean):
        file.unlink(missing_ok=True)
        best.offer(Evaluation(torch.tensor([mean]).numpy(), torch.tensor([1]).numpy()), algorithm)
        return file.is_file()

    assert [offer(mean) for mean in (1.0, 0.5, 1.0, 2.0, 1.0)] == [True, False, True, True, False]
    other = BestWeights(None)
    other.load_state_dict(best.state_dict())
    assert other.state_dict() == {"mean": 2.0}
