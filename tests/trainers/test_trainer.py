"""The training loop: what happens when, and that a resumed run is the run that was not stopped."""

import pytest
import torch
from muzero_parts import small_muzero
from support import ScriptedEnvironment, TinyAlgorithm
from trainer_parts import assert_same, bind_short_run, closed_after_test

from alfish.data_structures import StepType
from alfish.networks.preprocessing import FrameStack
from alfish.ops.target_updates import TargetUpdate
from alfish.summary.csv_writer import CsvWriter
from alfish.summary.writers import Summaries
from alfish.trainers.experiment import Experiment
from alfish.trainers.state_checks import CheckpointMismatch
from alfish.trainers.trainer import Trainer

CPU = torch.device("cpu")


def bind(replay=True, **settings):
    own = {
        "ReplayBatches.initial_env_steps": 10,
        "Evaluator.episodes": 3,
        "Trainer.total_env_steps": 160,
        "Trainer.evaluation_interval": 50,
    }
    bind_short_run(replay, own | settings)


def make_trainer(root_dir=None, algorithm=TinyAlgorithm, seed=0, made=None, **parts):
    def make_environment(num_envs):
        environment = ScriptedEnvironment(num_envs)
        if made is not None:
            made.append(environment)
        return environment

    trainer = Trainer(Experiment(environment=make_environment, algorithm=algorithm, **parts), CPU, seed=seed)
    closed_after_test(trainer)
    resumed = root_dir is not None and trainer.open(root_dir, Summaries([CsvWriter(root_dir / "metrics.csv")]))
    return trainer, resumed


def muzero(observation_spec, action_spec):
    return small_muzero(
        observation_spec,
        action_spec,
        policy={"num_simulations": 3},
        target_update=TargetUpdate(period=3),
        random_action_after_episode_end=True,
    )


@pytest.mark.parametrize(("replay", "algorithm"), [(True, TinyAlgorithm), (False, TinyAlgorithm), (True, muzero)])
@pytest.mark.parametrize("stack", [1, 3])
def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path, replay, algorithm, stack):
    bind(replay)
    transform = {
        "observation_transform": lambda spec: FrameStack(spec, num_frames=stack),
        "algorithm": algorithm,
    }
    whole, _ = make_trainer(tmp_path / "whole", **transform)
    whole.train()
    first, _ = make_trainer(tmp_path / "parts", **transform)
    assert first.train(stop_at_env_steps=80) is None
    first.close()
    torch.manual_seed(99)  # a new process has other random numbers
    second, resumed = make_trainer(tmp_path / "parts", **transform)
    assert resumed
    assert second.progress.env_steps == first.progress.env_steps
    second.train()
    assert_same(whole, second)
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_a_killed_run_repeats_what_it_had_not_saved(tmp_path):
    bind()
    whole, _ = make_trainer(tmp_path / "whole")
    whole.train()
    first, _ = make_trainer(tmp_path / "killed")
    save = first._store.save
    first._store.save = lambda step, components: step < 60 and save(step, components)
    first.train(stop_at_env_steps=100)  # its newest checkpoint is older than that, as after a kill
    second, resumed = make_trainer(tmp_path / "killed")
    assert resumed
    assert second.progress.env_steps < 60
    second.train()
    assert_same(whole, second)
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "killed/metrics.csv").read_bytes()


def test_seeds_decide_everything(tmp_path):
    bind()
    metrics = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer, _ = make_trainer(tmp_path / name, seed=seed)
        trainer.train()
        metrics.append((tmp_path / name / "metrics.csv").read_text())
    assert metrics[0] == metrics[1]
    assert metrics[0] != metrics[2]


def test_env_steps_are_answered_actions():
    bind(**{"Trainer.total_env_steps": 1, "Trainer.window_length": 9})
    made = []
    trainer, _ = make_trainer(made=made)
    trainer.train()
    # Environment 0: 9 actions, those on the LAST rows 3 and 7 are ignored; environment 1: on row 4 only.
    assert trainer.progress.env_steps == 7 + 8


def test_hooks_are_called_with_the_progress():
    bind()
    trainer, _ = make_trainer()
    trainer.train()
    algorithm, progress = trainer.built.algorithm, trainer.progress
    assert algorithm.iterations_seen == list(range(progress.iteration + 1))
    assert algorithm.updates_seen == list(range(1, progress.updates + 1))
    assert progress.updates == int((progress.env_steps - 10) * 0.5)


def test_a_stop_saves_and_the_run_goes_on(tmp_path):
    bind()
    trainer, _ = make_trainer(tmp_path)
    trainer.request_stop()
    trainer._iterate(last=160)
    second, resumed = make_trainer(tmp_path)
    assert resumed
    assert second.progress.iteration == 1
    assert second.train() is not None


def test_a_stop_gives_up_an_evaluation(tmp_path):
    bind()
    trainer, _ = make_trainer(tmp_path)
    evaluation_environment = ScriptedEnvironment(3, length=10**6)
    trainer._evaluations._evaluator._environment = evaluation_environment
    step = evaluation_environment.step

    def stop_at_the_fifth_step(action, out):
        step(action, out)
        if len(evaluation_environment.actions) == 5:
            trainer.request_stop()

    evaluation_environment.step = stop_at_the_fifth_step
    assert trainer.train() is None
    assert len(evaluation_environment.actions) == 5
    assert "evaluation" not in (tmp_path / "metrics.csv").read_text()
    _, resumed = make_trainer(tmp_path)
    assert resumed


def test_a_stop_in_the_last_evaluation_leaves_it_for_later(tmp_path):
    bind()
    first, _ = make_trainer(tmp_path)
    evaluator = first._evaluations._evaluator
    evaluate = evaluator.evaluate

    def interrupted(seed, should_stop):
        if first.progress.env_steps >= 160:
            first.request_stop()
        return evaluate(seed, should_stop)

    evaluator.evaluate = interrupted
    assert first.train() is None
    second, _ = make_trainer(tmp_path)
    assert not second.finished
    env_steps = second.progress.env_steps
    assert second.train() is not None
    assert second.finished
    assert second.progress.env_steps == env_steps
    assert second.progress.updates == int((env_steps - 10) * 0.5)


def test_another_number_of_environments_is_refused(tmp_path):
    bind(replay=False)
    trainer, _ = make_trainer(tmp_path)
    trainer.train(stop_at_env_steps=40)
    for num_envs in (1, 4):
        bind(replay=False, **{"Trainer.num_envs": num_envs})
        message = rf"are not those of this run: Trainer\.num_envs 2 -> {num_envs}; set that back, or begin a new run"
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path)


def test_another_seed_is_refused(tmp_path):
    bind()
    trainer, _ = make_trainer(tmp_path, seed=3)
    trainer.train(stop_at_env_steps=40)
    with pytest.raises(ValueError, match="started with the seed 3, not 0; give --seed=3"):
        make_trainer(tmp_path)


def test_a_complete_run_is_left_alone(tmp_path):
    bind()
    trainer, _ = make_trainer(tmp_path)
    assert trainer.train().returns.shape == (3,)
    again, resumed = make_trainer(tmp_path)
    assert resumed
    assert again.train() is None
    assert again.progress == trainer.progress


def test_a_checkpoint_closes_the_episodes_in_flight():
    bind(**{"Trainer.checkpoint_interval": 1})
    made = []
    trainer, _ = make_trainer(made=made)
    trainer._iterate(last=160)
    trainer._collect()
    window = trainer._engine._window.time_step
    assert window.step_type[0].tolist() == [StepType.LAST] * 2
    assert window.step_type[1].tolist() == [StepType.FIRST] * 2
    assert len(made[0].resets) == 2


class OtherSize(TinyAlgorithm):
    def __init__(self, observation_spec, action_spec):
        super().__init__(observation_spec, action_spec)
        self.layer = torch.nn.Linear(3, 2)


def test_another_network_is_refused_before_any_step(tmp_path):
    bind()
    trainer, _ = make_trainer(tmp_path)
    trainer.train(stop_at_env_steps=40)
    made = []
    with pytest.raises(CheckpointMismatch, match="layer"):
        make_trainer(tmp_path, algorithm=OtherSize, made=made)
    assert made[0].resets == []


def test_what_was_built_is_closed_when_the_rest_fails():
    bind(**{"Updater.learning_rate": -1.0})
    made = []
    with pytest.raises(ValueError, match="learning_rate"):
        make_trainer(made=made)
    assert made[0].closed


def test_dry_run_keeps_nothing(tmp_path):
    bind()
    trainer, _ = make_trainer()
    batches = trainer.dry_run()
    assert batches.keys() == {""}
    assert batches[""].inputs.reward.shape == (4, 1)
    assert batches[""].rows.position.shape == (4,)
    trainer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["num_envs", "window_length", "total_env_steps", "summary_interval", "evaluation_interval", "checkpoint_interval"],
)
@pytest.mark.parametrize("value", [0, -3])
def test_sizes_must_be_positive(name, value):
    bind(**{f"Trainer.{name}": value})
    with pytest.raises(ValueError, match=rf"Trainer\.{name} is {value}; it must be at least 1"):
        make_trainer()


def test_no_evaluation_but_at_the_end():
    bind(**{"Trainer.evaluation_interval": None})
    trainer, _ = make_trainer()
    calls = []
    request = trainer._evaluations.request
    trainer._evaluations.request = lambda progress: (calls.append(progress[""].env_steps), request(progress))
    trainer.train()
    assert calls == [trainer.progress.env_steps]
