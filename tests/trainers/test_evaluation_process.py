"""Evaluation in a process of its own: the same results, at the steps of the weights, whatever happens to it."""

import csv
import functools

import gin
import numpy as np
import pytest
import torch
from evaluation_parts import Dying, Held, Raising, make_experiment
from trainer_parts import assert_same, closed_after_test

from alfish.rollout.worker_process import WorkerLost
from alfish.summary.csv_writer import CsvWriter
from alfish.summary.writers import Summaries
from alfish.trainers.evaluation_process import EvaluationProcess
from alfish.trainers.evaluations import FinishedEvaluation, SameProcessEvaluation
from alfish.trainers.evaluator import Evaluation
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
    assert trainer._evaluations.metrics() == {"restarts": 1}
    make_trainer(tmp_path / "whole", SameProcessEvaluation).train()
    assert evaluations(tmp_path / "run") == evaluations(tmp_path / "whole")


def test_the_process_is_looked_after_between_rows_and_between_updates(tmp_path):
    trainer = make_trainer(tmp_path)
    during = []
    trainer._evaluations.poll = lambda: during.append(trainer.progress)
    trainer.train(stop_at_env_steps=80)
    updates = trainer.progress.updates
    assert len(during) > updates > 10
    assert {progress.updates for progress in during} == set(range(updates + 1))
    # Before the first update: each row of the windows that the replay begins with.
    assert sum(progress.env_steps == 0 for progress in during) == 4


def test_a_process_that_is_lost_between_updates_ends_the_run_behind_them(tmp_path):
    trainer = make_trainer(tmp_path)
    lost, polls = WorkerLost("the evaluation process is lost"), []

    evaluations, write, written = trainer._evaluations, trainer._summaries.write, []
    weights = trainer.built.algorithm.state_dict()
    received = FinishedEvaluation(trainer.progress, Evaluation(np.array([7.0]), np.array([3])), weights)

    def poll():
        polls.append(trainer.progress)
        if trainer.progress.updates == 10:
            evaluations._finished.append(received)
            raise lost

    def note(progress, metrics, timing):
        written.append(metrics.get("evaluation/return"))
        write(progress, metrics, timing)

    evaluations.poll, trainer._summaries.write = poll, note
    with pytest.raises(WorkerLost) as raised:
        trainer.train()
    assert 7.0 in written  # what was finished is reported nevertheless
    assert raised.value is lost
    assert polls[-1].updates == 10  # nobody is asked again
    trained = trainer.progress
    assert trained.updates == 10
    trainer.close()
    assert make_trainer(tmp_path).progress == trained


def test_an_engine_that_fails_during_an_evaluation_of_the_same_process_ends_it_at_once(tmp_path):
    trainer = make_trainer(tmp_path, SameProcessEvaluation)
    trainer.train(stop_at_env_steps=20)
    saved = trainer.progress
    lost, evaluator = WorkerLost("worker 0 is lost"), trainer._evaluations._evaluator
    evaluate = evaluator.evaluate

    def poll():
        raise lost

    def evaluate_without_a_worker(*arguments):
        trainer._engine.poll, trainer._engine.cut = poll, None  # an engine without its workers cannot cut
        return evaluate(*arguments)

    evaluator.evaluate = evaluate_without_a_worker
    with pytest.raises(WorkerLost) as raised:
        trainer.train()
    assert raised.value is lost
    trainer.close()
    assert make_trainer(tmp_path).progress == saved


def test_an_error_in_the_process_reaches_the_user(tmp_path):
    trainer = make_trainer(tmp_path, environment=Raising)
    with pytest.raises(ValueError, match="the evaluation process: the evaluation's environment is broken") as raised:
        trainer.train()
    assert "in step" in "".join(raised.value.__notes__)


def test_training_waits_for_evaluations_that_are_slower_than_their_interval(tmp_path):
    trainer = make_trainer(tmp_path / "slow", environment=held(tmp_path), max_waiting=1)
    trainer.train(stop_at_env_steps=80)
    assert len(pending_steps(trainer)) == 2
    waits = []

    def stop_when_it_waits():
        waits.append(trainer.progress.env_steps)
        if len(waits) == 3:
            (tmp_path / "release").touch()
        return False

    trainer._evaluations._context = trainer._evaluations._context._replace(should_stop=stop_when_it_waits)
    assert trainer.train() is not None
    assert 80 < waits[0] == waits[2] < 120
    make_trainer(tmp_path / "whole", SameProcessEvaluation).train()
    assert evaluations(tmp_path / "slow") == evaluations(tmp_path / "whole")
    # Nothing else is in the table: it would depend on speed.
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("slow", "whole")]
    assert sorted(rows[0]) == sorted(rows[1])


def test_a_stop_does_not_wait_for_a_place_in_the_queue(tmp_path):
    trainer = make_trainer(tmp_path, environment=held(tmp_path), max_waiting=1)
    evaluation_process = trainer._evaluations
    evaluation_process._context = evaluation_process._context._replace(should_stop=lambda: True)
    trainer.train(stop_at_env_steps=120)
    assert len(pending_steps(trainer)) == 2


def test_what_was_trained_is_saved_before_a_lost_evaluation_ends_the_run(tmp_path):
    broken = make_trainer(tmp_path, environment=Raising)
    with pytest.raises(ValueError, match="the evaluation's environment is broken"):
        broken.train()
    trained = broken.progress
    broken.close()
    again = make_trainer(tmp_path)
    assert again.progress == trained
    assert len(pending_steps(again)) > 0
    assert again.train() is not None


def test_pending_evaluations_of_other_weights_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, environment=held(tmp_path))
    trainer.train(stop_at_env_steps=80)
    state = trainer._evaluations.state_dict()
    trainer._evaluations.check_state_dict(state)
    name = next(iter(state["pending"][0]["weights"]))
    state["pending"][0]["weights"][name] = torch.zeros(7, 7)
    with pytest.raises(
        ValueError, match=r"an evaluation that is pending in the checkpoint does not fit (?s:.*)\(7, 7\)"
    ):
        trainer._evaluations.check_state_dict(state)


def test_more_pending_evaluations_than_may_wait_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, environment=held(tmp_path))
    trainer.train(stop_at_env_steps=100)
    trainer.close()
    with pytest.raises(ValueError, match="EvaluationProcess.max_waiting is 1; 3 evaluations .* give at least 2"):
        make_trainer(tmp_path, max_waiting=1)


def test_a_stop_does_not_wait_for_the_last_evaluation(tmp_path):
    trainer = make_trainer(tmp_path, environment=held(tmp_path), max_waiting=5)
    finished = trainer._evaluations.finished

    def stop_at_the_end(wait=False):
        if wait:
            trainer.request_stop()
        return finished(wait)

    trainer._evaluations.finished = stop_at_the_end
    assert trainer.train() is None
    trainer.close()
    (tmp_path / "release").touch()
    again = make_trainer(tmp_path, max_waiting=5)
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

    trainer._evaluations.finished = lambda wait=False: []
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
        ({"max_restarts": -1}, "EvaluationProcess.max_restarts is -1"),
        ({"deadline_seconds": 0.0}, "EvaluationProcess.deadline_seconds is 0.0"),
        ({"start_method": "fork"}, "EvaluationProcess.start_method is 'fork'"),
        ({"device": "xx"}, "EvaluationProcess.device is 'xx'; expected 'cpu', 'cuda' or 'cuda:N'"),
        ({"device": "meta"}, "EvaluationProcess.device is 'meta'; expected 'cpu', 'cuda' or 'cuda:N'"),
        ({"device": "cuda:99"}, "EvaluationProcess.device is 'cuda:99', which is not there: torch finds .* GPUs"),
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
        Trainer(make_experiment(), CPU, evaluation=functools.partial(EvaluationProcess))
