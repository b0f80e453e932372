"""Evaluation in a process of its own: the same results, at the steps of the weights, whatever happens to it."""

import csv
import functools

import gin
import pytest
import torch
from evaluation_parts import Dying, Held, Raising, make_experiment
from trainer_parts import assert_same, closed_after_test

from alfish.summary.csv_writer import CsvWriter
from alfish.summary.writers import Summaries
from alfish.trainers.evaluation_process import EvaluationProcess
from alfish.trainers.evaluations import SameProcessEvaluation
from alfish.trainers.trainer import Trainer
from alfish.trainers.weight_files import read_weights

CPU = torch.device("cpu")
CONFIG = """
import alfish.trainers.replay_batches
Updater.optimizer = @torch.optim.Adam
Updater.learning_rate = 0.05
ReplayBuffer.capacity = 60
ReplayBatches.batch_size = 4
ReplayBatches.updates_per_env_step = 0.5
ReplayBatches.initial_env_steps = 10
Evaluator.episodes = 3
Trainer.batch_source = @ReplayBatches
Trainer.num_envs = 2
Trainer.window_length = 4
Trainer.total_env_steps = 160
Trainer.summary_interval = 20
Trainer.evaluation_interval = 30
Trainer.checkpoint_interval = 40
"""


def make_trainer(folder, evaluation=EvaluationProcess, environment=None, **options):
    gin.clear_config()
    gin.parse_config(CONFIG)
    if evaluation is EvaluationProcess:
        evaluation = functools.partial(EvaluationProcess, **options)
        evaluation.needs_configuration = False  # the experiment is given
    parts = {} if environment is None else {"evaluation_environment": environment}
    experiment = functools.partial(make_experiment, **parts)
    trainer = Trainer(experiment(), CPU, seed=3, evaluation=evaluation, make_experiment=experiment)
    closed_after_test(trainer)
    trainer.open(folder, Summaries([CsvWriter(folder / "metrics.csv")]))
    return trainer


def held(folder):
    """Environments that wait until the file `release` is in the folder."""
    return functools.partial(Held, release=folder / "release")


def pending_steps(trainer):
    """At how many environment steps the pending evaluations were requested."""
    return [request.progress[""].env_steps for request in trainer._evaluations._requests]


def wait_for(finished):
    """The first evaluations that come."""
    while not (found := finished(wait=True)):
        pass
    return found


def evaluations(folder):
    """Step and value of each metric of evaluations."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] in ("evaluation/return", "evaluation/length")]
    return sorted((int(row["env_steps"]), row["metric"], row["value"]) for row in rows)


def test_the_results_and_the_best_weights_are_those_of_the_same_process(tmp_path):
    last = make_trainer(tmp_path / "here", SameProcessEvaluation).train()
    assert make_trainer(tmp_path / "there").train().returns.tolist() == last.returns.tolist()
    found = evaluations(tmp_path / "there")
    assert found == evaluations(tmp_path / "here")
    assert len({step for step, _, _ in found}) >= 5
    assert len({value for _, metric, value in found if metric == "evaluation/return"}) > 1
    best = [read_weights(tmp_path / name / "best/weights.pt") for name in ("here", "there")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_a_stopped_run_keeps_what_is_pending(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    first = make_trainer(tmp_path / "parts", environment=held(tmp_path))
    assert first.train(stop_at_env_steps=80) is None
    pending = pending_steps(first)
    assert len(pending) == 2
    first.close()
    second = make_trainer(tmp_path / "parts")
    assert pending_steps(second) == pending
    assert second.train() is not None
    assert evaluations(tmp_path / "parts") == evaluations(tmp_path / "whole")
    assert_same(whole, second)


def test_a_run_may_go_on_with_another_way_to_evaluate(tmp_path, caplog):
    first = make_trainer(tmp_path, environment=held(tmp_path))
    first.train(stop_at_env_steps=80)
    first.close()
    with caplog.at_level("WARNING", logger="absl"):
        second = make_trainer(tmp_path, SameProcessEvaluation)
    assert "that were pending at the checkpoint are left out" in caplog.text
    assert second.train(stop_at_env_steps=120) is None
    second.close()
    third = make_trainer(tmp_path)
    assert third.train() is not None


def test_a_killed_process_is_started_again(tmp_path):
    trainer = make_trainer(tmp_path / "run", environment=functools.partial(Dying, died=tmp_path / "died"))
    assert trainer.train() is not None
    assert (tmp_path / "died").exists()
    assert trainer._evaluations.metrics() == {"restarts": 1, "left_out": 0}
    make_trainer(tmp_path / "whole", SameProcessEvaluation).train()
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")


def test_an_error_in_the_process_reaches_the_user(tmp_path):
    trainer = make_trainer(tmp_path, environment=Raising)
    with pytest.raises(ValueError, match="the evaluation process: the evaluation's environment is broken") as raised:
        trainer.train()
    assert "in step" in "".join(raised.value.__notes__)


def test_slow_evaluations_are_left_out_but_not_the_last_one(tmp_path):
    trainer = make_trainer(tmp_path, environment=held(tmp_path), max_waiting=1)
    trainer.train(stop_at_env_steps=130)
    # Requested at 30, 60, 90 and 120: the worker has the first; each of the others took the place of the one before.
    first, waiting = pending_steps(trainer)
    assert first < 60
    assert waiting >= 120
    assert trainer._evaluations.metrics()["left_out"] == 2
    (tmp_path / "release").touch()
    assert trainer.train() is not None
    steps = {step for step, _, _ in evaluations(tmp_path)}
    assert {first, trainer.progress.env_steps} <= steps
    assert trainer._evaluations.metrics()["left_out"] == 6 - len(steps)


def test_a_stop_does_not_wait_for_the_last_evaluation(tmp_path):
    trainer = make_trainer(tmp_path, environment=held(tmp_path))
    finished = trainer._evaluations.finished

    def stop_at_the_end(wait=False):
        if wait:
            trainer.request_stop()
        return finished(wait)

    trainer._evaluations.finished = stop_at_the_end
    assert trainer.train() is None
    trainer.close()
    (tmp_path / "release").touch()
    again = make_trainer(tmp_path)
    assert not again.finished
    assert again.train() is not None
    assert again.finished
    assert len({step for step, _, _ in evaluations(tmp_path)}) == 6


def test_an_earlier_evaluation_is_not_taken_for_the_last_one(tmp_path):
    trainer = make_trainer(tmp_path)
    finished = trainer._evaluations.finished

    def stop_when_others_have_come(wait=False):
        if not wait:
            return []
        trainer.request_stop()
        return finished(True)[:0] + [earlier]

    trainer.train(stop_at_env_steps=40)
    (earlier,) = wait_for(finished)
    trainer._evaluations.finished = stop_when_others_have_come
    assert trainer.train() is None
    assert not trainer.finished


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"max_waiting": 0}, "EvaluationProcess.max_waiting is 0"),
        ({"niceness": -1}, "EvaluationProcess.niceness is -1"),
        ({"max_restarts": -1}, "max_restarts is -1"),
        ({"deadline_seconds": 0.0}, "deadline_seconds is 0.0"),
        ({"start_method": "fork"}, "start_method is 'fork'"),
    ],
)
def test_bad_settings(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, **setting)


def test_an_experiment_that_is_not_in_the_configuration_is_refused():
    gin.clear_config()
    gin.parse_config(CONFIG)
    with pytest.raises(
        ValueError, match=r"EvaluationProcess makes the experiment anew .* does not bind Experiment.env"
    ):
        Trainer(make_experiment(), CPU, evaluation=EvaluationProcess)
