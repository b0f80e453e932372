"""Training tasks: several in one run, each with its own replay, optimiser and counts; and priorities."""

import functools

import numpy as np
import pytest
import task_parts
import torch
from muzero_parts import small_muzero
from support import TinyAlgorithm
from task_parts import OnPolicyWithPart, Prioritising, WithPart, bind
from trainer_parts import assert_same, closed_after_test, everything

from alfish.algorithms.mcts_algorithm import MCTSAlgorithm
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.data_structures import RowsNeeded
from alfish.experience_replayers import sizes
from alfish.networks.preprocessing import FrameStack
from alfish.ops.target_updates import TargetUpdate
from alfish.trainers import state_nests
from alfish.trainers.checkpoint_files import read_manifest
from alfish.trainers.checkpoint_store import CheckpointStore
from alfish.trainers.estimate import estimate_run_time
from alfish.trainers.initial_weights import InitialWeights
from alfish.trainers.weight_files import save_weights

PRIORITIES = "ReplayBuffer.sampler = @PrioritizedSampler()"


def make_trainer(*arguments, **options):
    return closed_after_test(task_parts.make_trainer(*arguments, **options))


def parameters(module):
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


@pytest.mark.parametrize(("interval", "on_policy", "stack"), [(1, False, 3), (3, False, 1), (3, True, 3)])
def test_a_resumed_run_of_several_tasks_is_the_run_that_was_not_stopped(tmp_path, interval, on_policy, stack):
    bind(f"PartOptions.interval = {interval}", on_policy=on_policy)
    options = {
        "algorithm": OnPolicyWithPart if on_policy else WithPart,
        "observation_transform": lambda spec: FrameStack(spec, num_frames=stack),
    }
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    first = make_trainer(tmp_path / "parts", **options)
    first.train(stop_at_env_steps=40)
    first.close()
    torch.manual_seed(99)  # a new process has other random numbers
    second = make_trainer(tmp_path / "parts", **options)
    assert second.progress.env_steps == first.progress.env_steps
    second.train()
    assert_same(whole, second)
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


@pytest.mark.parametrize("reanalysis", [None, Reanalysis(0.5, functools.partial(MCTSAlgorithm, num_simulations=2))])
def test_a_resumed_run_by_priority_is_the_run_that_was_not_stopped(tmp_path, reanalysis):
    settings = {"target_update": TargetUpdate(period=3), "priority_function": "value_error", "reanalysis": reanalysis}
    algorithm = functools.partial(small_muzero, policy={"num_simulations": 3}, **settings)
    bind(PRIORITIES, "ReplayBatches.segment_length = 2")
    whole = make_trainer(tmp_path / "whole", algorithm=algorithm)
    whole.train()
    make_trainer(tmp_path / "parts", algorithm=algorithm).train(stop_at_env_steps=40)
    torch.manual_seed(99)
    second = make_trainer(tmp_path / "parts", algorithm=algorithm)
    assert 0 < second.progress.updates < 40
    second.train()
    assert_same(whole, second)
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_each_task_has_its_own_counts_and_metrics(tmp_path):
    bind()
    trainer = make_trainer(tmp_path)
    trainer.train()
    env_steps, algorithm = trainer.progress.env_steps, trainer.built.algorithm
    main, part = (runner.progress(trainer.progress).updates for runner in trainer.runners)
    assert (main, part) == (int((env_steps - 10) * 0.5), int((env_steps - 20) * 0.25))
    assert algorithm.updates_seen == list(range(1, main + 1))
    assert algorithm.part.updates_seen == list(range(1, part + 1))
    assert algorithm.part.iterations_seen == algorithm.iterations_seen
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert {"loss", "part/loss"} <= {row[-2] for row in rows}
    assert {row[-1] for row in rows if row[-2] == "part/learning_rate"} == {"0.02"}


def test_a_part_is_trained_by_its_own_task_alone():
    bind("part/ReplayBatches.initial_env_steps = 1_000")
    trainer = make_trainer()
    algorithm = trainer.built.algorithm
    before, part_before = parameters(algorithm.layer), parameters(algorithm.part)
    trainer.train(stop_at_env_steps=40)
    assert torch.equal(parameters(algorithm.part), part_before)
    assert not torch.equal(parameters(algorithm.layer), before)


def test_a_part_leaves_the_algorithm_as_it_would_be_without():
    results = []
    for names in (("part",), ()):
        bind()
        kind = type("Some", (WithPart,), {"part_names": names})
        trainer = make_trainer(algorithm=kind)
        trainer.built.algorithm.part.requires_grad_(bool(names))
        trainer.train()
        results.append(parameters(trainer.built.algorithm.layer))
    assert torch.equal(*results)


def test_tasks_are_trained_in_every_so_manieth_iteration_and_in_the_last():
    bind("PartOptions.interval = 5")
    trainer = make_trainer()
    counts = []
    run = trainer.runners[1]
    update = run.update

    def counted(progress, is_last, stop_requested):
        update(progress, is_last, stop_requested)
        counts.append((progress.iteration, is_last, run.progress(progress).updates))

    run.update = counted
    trainer.train()
    trained = [iteration for (iteration, _, now), (*_, before) in zip(counts[1:], counts, strict=False) if now > before]
    assert trained == [*range(5, trainer.progress.iteration, 5), trainer.progress.iteration]
    assert counts[-1][1:] == (True, int((trainer.progress.env_steps - 20) * 0.25))


@pytest.mark.parametrize("names", [("part", "part"), ("part", ""), ("",)])
def test_names_of_tasks_differ(names):
    bind()
    with pytest.raises(ValueError, match="each needs a name of its own"):
        make_trainer(algorithm=type("Named", (WithPart,), {"part_names": names}))


def test_the_estimate_and_the_sizes_include_all_tasks():
    bind()
    trainer = make_trainer()
    before = everything(trainer)
    estimate = estimate_run_time(trainer, torch.device("cpu"))
    assert estimate.update.keys() == {"", "part"}
    updates = {"": 45, "part": 20}  # (100 - 10) / 2 and (100 - 20) / 4
    expected = estimate.act * 100 / 2 + sum(estimate.update[name] * count for name, count in updates.items())
    assert estimate.run == pytest.approx(expected)
    for (path, leaf), (_, found) in zip(before, everything(trainer), strict=True):
        assert torch.equal(leaf, found) if isinstance(leaf, torch.Tensor) else leaf == found, path
    taken = [runner.batch_source.size for runner in trainer.runners]
    assert trainer.replay_size.memory == sum(size.memory for size in taken) > taken[0].memory > 0


def test_a_dry_run_tries_every_task():
    bind()
    batches = make_trainer().dry_run()
    assert {name: batch.inputs.reward.shape for name, batch in batches.items()} == {"": (4, 1), "part": (6, 1)}


def test_a_stop_leaves_the_updates_for_later(tmp_path):
    bind("Trainer.window_length = 20")
    first = make_trainer(tmp_path)
    first.built.algorithm.after_update = lambda progress: first.request_stop()
    first.train()
    assert [runner.progress(first.progress).updates for runner in first.runners] == [1, 1]
    second = make_trainer(tmp_path)
    second.train()
    for runner in second.runners:
        due = runner.batch_source.updates_after(second.progress.env_steps)
        assert runner.progress(second.progress).updates == due > 10


def test_priorities_reach_the_rows_that_they_are_of():
    bind(PRIORITIES)
    trainer = make_trainer(algorithm=Prioritising)
    (runner,) = trainer.runners
    handed = []
    buffer = runner.batch_source._buffer
    sample, update = buffer.sample, buffer.update_priorities

    def sampled(*arguments):
        found = sample(*arguments)
        handed.append(found)
        return found

    def updated(rows, priority):
        assert rows is handed[-1].rows
        np.testing.assert_array_equal(priority, trainer.built.algorithm.priority.numpy())
        update(rows, priority)
        handed.append("updated")

    buffer.sample, buffer.update_priorities = sampled, updated
    trainer.train(stop_at_env_steps=60)
    assert handed[1::2] == ["updated"] * trainer.progress.updates
    assert trainer.progress.updates > 10


def test_a_skipped_update_hands_down_nothing():
    class Broken(Prioritising):
        def calc_loss(self, info):
            found = super().calc_loss(info)
            return found._replace(loss=found.loss * float("nan"), priority=found.priority * float("nan"))

    bind(PRIORITIES, "Updater.max_skipped_updates = 3")
    trainer = make_trainer(algorithm=Broken)
    handed = []
    trainer.runners[0].batch_source.update_priorities = lambda *arguments: handed.append(arguments)
    with pytest.raises(ValueError, match="3 updates in a row were not finite"):
        trainer.train()
    assert handed == []


def test_priorities_and_sampler_go_together():
    bind(PRIORITIES)
    message = r"TinyAlgorithm gives no priorities, but .*: bind ReplayBuffer.sampler = @UniformSampler\(\)\n"
    with pytest.raises(ValueError, match=message):
        make_trainer(algorithm=TinyAlgorithm)
    bind("part/ReplayBuffer.sampler = @UniformSampler()")
    message = r"Prioritising gives priorities, but .*: bind part/ReplayBuffer.sampler = @PrioritizedSampler\(\)\n"
    with pytest.raises(ValueError, match=message):
        make_trainer()
    bind(PRIORITIES)
    for name in (None, "value_error"):
        algorithm = functools.partial(small_muzero, policy={"num_simulations": 1}, priority_function=name)
        if name is None:
            message = (
                "MuzeroAlgorithm gives no priorities, .*or set MuzeroRepresentationImpl.priority_function = 'value"
            )
            with pytest.raises(ValueError, match=message):
                make_trainer(algorithm=algorithm)
        else:
            make_trainer(algorithm=algorithm)


def test_priorities_that_were_promised_must_come():
    class Forgetful(Prioritising):
        def calc_loss(self, info):
            return super().calc_loss(info)._replace(priority=())

    bind(PRIORITIES)
    message = "Forgetful.gives_priorities is True, but its calc_loss gave no LossInfo.priority"
    with pytest.raises(ValueError, match=message):
        make_trainer(algorithm=Forgetful).train()


def test_a_part_is_told_what_to_bind():
    class Longer(TinyAlgorithm):
        def rows_needed(self):
            return RowsNeeded(future=3)

    bind("PartOptions.batch_source = @part/OnPolicyBatches")
    with pytest.raises(ValueError, match="Longer needs 3 rows .*: bind PartOptions.batch_source = @part/ReplayBatches"):
        make_trainer(algorithm=type("Some", (WithPart,), {"part_type": Longer}))
    bind(on_policy=True)
    with pytest.raises(ValueError, match="Longer needs 3 rows .*: bind Trainer.batch_source = @ReplayBatches"):
        make_trainer(algorithm=Longer)


def test_the_replays_of_all_tasks_must_fit_together(monkeypatch):
    bind()
    first, part = (runner.batch_source.size.memory for runner in make_trainer().runners)
    monkeypatch.setattr(sizes, "physical_memory", lambda: first + part)
    make_trainer()
    monkeypatch.setattr(sizes, "physical_memory", lambda: first + part - 1)
    message = rf"together \(ReplayBuffer.capacity: {first:,} bytes, part/ReplayBuffer.capacity: {part:,} bytes\), this"
    with pytest.raises(ValueError, match=message):
        make_trainer()


def stopped_run(folder, *bindings):
    bind(*bindings)
    trainer = make_trainer(folder)
    trainer.train(stop_at_env_steps=40)
    trainer.close()
    return trainer


def test_a_replay_of_another_sampler_is_refused_or_dropped(tmp_path):
    stopped = stopped_run(tmp_path)
    bind(
        "import alfish.experience_replayers.recent_mix",
        "part/ReplayBuffer.sampler = @RecentMix()",
        "RecentMix.sampler = @PrioritizedSampler()",
        "RecentMix.recent_ratio = 0.5",
        "RecentMix.recent_rows = 8",
    )
    with pytest.raises(
        ValueError, match=r"PrioritizedSampler.*; to go on without the stored rows, give --drop_replay$"
    ):
        make_trainer(tmp_path)
    trainer = make_trainer(tmp_path, drop_replay=True)
    assert trainer.progress == stopped.progress
    assert torch.equal(parameters(trainer.built.algorithm), parameters(stopped.built.algorithm))
    assert all(runner.batch_source._buffer.num_rows == 0 for runner in trainer.runners)


def test_of_two_replays_the_one_that_does_not_fit_is_named(tmp_path):
    stopped_run(tmp_path)
    bind("part/ReplayBuffer.capacity = 60")
    message = r"^part/batch_source: ReplayBuffer: the checkpoint has capacity=40, this run has capacity=60\."
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path)


def test_without_its_rows_a_run_waits_as_at_its_start(tmp_path):
    stopped = stopped_run(tmp_path, "ReplayBatches.initial_env_steps = 30", "part/ReplayBatches.initial_env_steps = 30")
    trainer = make_trainer(tmp_path, drop_replay=True)
    main, part = (runner.batch_source for runner in trainer.runners)
    now = stopped.progress
    assert main.updates_after(now.env_steps + 30) == now.updates
    assert main.updates_after(now.env_steps + 40) == now.updates + 5
    assert part.updates_after(now.env_steps + 40) == int((now.env_steps - 30) * 0.25) + 2
    trainer.train()
    assert trainer.progress.updates == main.updates_after(trainer.progress.env_steps)
    again = make_trainer(tmp_path)  # the wait is part of the checkpoint
    assert again.runners[0].batch_source.updates_after(200) == main.updates_after(200)


def test_a_checkpoint_without_replay_is_refused_or_dropped(tmp_path):
    stopped = stopped_run(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints")
    others = {name: part for name, part in stopped._components().items() if "batch_source" not in name}
    store.save(store.newest_step(), others)
    message = r"has no batch_source, part/batch_source, and nothing was loaded; to go on .* give --drop_replay$"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path)
    assert make_trainer(tmp_path, drop_replay=True).progress == stopped.progress


def test_an_on_policy_checkpoint_has_no_rows_for_a_replay(tmp_path):
    bind(on_policy=True)
    make_trainer(tmp_path, algorithm=OnPolicyWithPart).train(stop_at_env_steps=40)
    bind()
    with pytest.raises(ValueError, match=r"the checkpoint holds no stored rows, but nothing; .* --drop_replay$"):
        make_trainer(tmp_path)


def test_a_damaged_replay_says_how_to_go_on_without(tmp_path, monkeypatch):
    monkeypatch.setattr(state_nests, "LARGE_BYTES", 64)  # so that rows have files of their own
    stopped = stopped_run(tmp_path, "Trainer.keep_checkpoints = 1")
    (folder,) = CheckpointStore(tmp_path / "checkpoints").step_folders()
    files = [file for file in read_manifest(folder).files if file.component == "part/batch_source"]
    assert files
    (folder / files[0].name).unlink()
    with pytest.raises(ValueError, match=r"is missing; to go on .* --drop_replay \(and remove .bad from the name"):
        make_trainer(tmp_path)
    folder.with_name(f"{folder.name}.bad").rename(folder)
    assert make_trainer(tmp_path, drop_replay=True).progress == stopped.progress


def test_initial_weights_are_for_the_start_of_a_run(tmp_path):
    bind()
    other = make_trainer(seed=5).built.algorithm
    save_weights(tmp_path / "weights.pt", other)
    parts = {"initial_weights": InitialWeights(str(tmp_path / "weights.pt"))}
    for folder in (None, tmp_path / "run"):
        trainer = make_trainer(folder, **parts)
        assert torch.equal(parameters(trainer.built.algorithm), parameters(other)) == (folder is not None)
        trainer.train(stop_at_env_steps=1)  # no update yet
        assert torch.equal(parameters(trainer.built.algorithm), parameters(other))
    trainer.train(stop_at_env_steps=40)
    (tmp_path / "weights.pt").unlink()
    assert torch.equal(
        parameters(make_trainer(tmp_path / "run", **parts).built.algorithm), parameters(trainer.built.algorithm)
    )
    with pytest.raises(ValueError, match="there is no file of weights"):
        make_trainer(tmp_path / "another", **parts)
