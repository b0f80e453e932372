"""Batch sources: which rows an algorithm is trained on, and how often."""

import gin
import numpy as np
import pytest
import torch
from engine_parts import same_process_engine
from support import ScriptedEnvironment, TinyAlgorithm

from alfish import nest
from alfish.data_structures import Progress, RowsNeeded, TailNeeded, time_step_spec
from alfish.networks.preprocessing import FrameStack, ObservationTransform
from alfish.rollout.acting import experience_specs
from alfish.summary.timers import Timers
from alfish.trainers.batch_source import SourceContext
from alfish.trainers.on_policy_batches import OnPolicyBatches
from alfish.trainers.replay_batches import ReplayBatches

CPU = torch.device("cpu")
BY_PRIORITY = """
import alfish.experience_replayers.prioritized_sampler
ReplayBuffer.sampler = @PrioritizedSampler()
PrioritizedSampler.alpha = 1.0
PrioritizedSampler.beta = 1.0
"""


def make(transform=ObservationTransform, window_length=5, num_envs=2, algorithm=TinyAlgorithm):
    environment = ScriptedEnvironment(num_envs)
    seen = transform(environment.observation_spec)
    learner = algorithm(seen.output_spec, environment.action_spec)
    row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
    timers = Timers()
    context = SourceContext(
        algorithm=learner,
        transform=seen,
        row_specs=experience_specs(learner, seen, row_specs, num_envs, CPU),
        num_envs=num_envs,
        window_length=window_length,
        generator=np.random.default_rng(1),
        device=CPU,
        timers=timers,
    )
    return context, same_process_engine(environment, learner, seen, window_length, timers=timers)


def make_replay(context, capacity=100, **settings):
    gin.bind_parameter("ReplayBuffer.capacity", capacity)
    return ReplayBatches(context, **({"batch_size": 4, "updates_per_env_step": 0.5, "initial_env_steps": 0} | settings))


def rows_seen(batches):
    inputs = [batch.inputs for batch in batches]
    return [tuple(row) for each in inputs for row in each.observation.flatten(0, 1)[:, 1:].tolist()]


def test_every_epoch_sees_every_row_once():
    context, engine = make()
    source = OnPolicyBatches(context, mini_batch_size=3, num_epochs=2)
    source.add(engine.collect({}).experience)
    batches = list(source.batches(Progress()))
    # Rows 0 … 4 of environments with episodes of 3 and 4 steps.
    expected = sorted([(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)])
    assert [batch.inputs.reward.shape[0] for batch in batches] == [3, 3, 3, 1] * 2
    assert sorted(rows_seen(batches[:4])) == expected
    assert sorted(rows_seen(batches[4:])) == expected
    assert rows_seen(batches[:4]) != rows_seen(batches[4:])


def test_on_policy_targets_belong_to_their_rows():
    context, engine = make()
    source = OnPolicyBatches(context, mini_batch_size=100, num_epochs=1)
    source.add(engine.collect({}).experience)
    (batch,) = source.batches(Progress())
    # A row is followed by a reward of 1, unless it is LAST: the next one then begins an episode.
    assert torch.equal(batch.rollout_info == 1, ~batch.inputs.is_last())


def test_on_policy_frame_stacks_reach_into_the_window_before():
    context, engine = make(lambda spec: FrameStack(spec, num_frames=3), window_length=2, num_envs=1)
    source = OnPolicyBatches(context, mini_batch_size=100, num_epochs=1)
    for _ in range(2):
        source.add(engine.collect({}).experience)
        (batch,) = source.batches(Progress())
    # The second window answers rows 2 and 3: the stack of row 2 holds rows 0, 1, 2.
    assert sorted(batch.inputs.observation[:, 0].view(-1, 3, 3)[:, :, 2].tolist()) == [[0, 1, 2], [1, 2, 3]]


def test_updates_follow_from_env_steps():
    context, engine = make()
    source = make_replay(context, updates_per_env_step=0.5, initial_env_steps=4)
    source.add(engine.collect({}).experience)
    assert len(list(source.batches(Progress(env_steps=4)))) == 0
    assert len(list(source.batches(Progress(env_steps=9)))) == 2
    assert len(list(source.batches(Progress(env_steps=9, updates=2)))) == 0
    assert len(list(source.batches(Progress(env_steps=14, updates=1)))) == 4


def test_replay_waits_for_a_block():
    context, engine = make(lambda spec: FrameStack(spec, num_frames=4), window_length=2)
    source = make_replay(context)
    source.add(engine.collect({}).experience)
    assert list(source.batches(Progress(env_steps=100))) == []
    source.add(engine.collect({}).experience)
    assert len(list(source.batches(Progress(env_steps=4)))) == 2


def test_replay_samples_follow_the_rows():
    context, engine = make(lambda spec: FrameStack(spec, num_frames=3))
    source = make_replay(context, batch_size=64, updates_per_env_step=1.0)
    for _ in range(4):
        source.add(engine.collect({}).experience)
    for batch in source.batches(Progress(env_steps=3)):
        assert batch.inputs.observation.shape == (64, 1, 9)
        stacks = batch.inputs.observation.view(64, 3, 3)
        newest, before = stacks[:, 2], stacks[:, 1]
        assert torch.equal(newest[:, 1], before[:, 1])  # the same episode
        assert torch.equal(before[:, 2], (newest[:, 2] - 1).clamp(min=0))


def test_replay_state_round_trip():
    context, engine = make()
    source = make_replay(context)
    for _ in range(3):
        source.add(engine.collect({}).experience)
    other_context, _ = make()
    other = make_replay(other_context)
    other.load_state_dict(source.state_dict())
    first, second = (list(each.batches(Progress(env_steps=4))) for each in (source, other))
    for (path, leaf), found in zip(nest.leaves_with_paths(first), nest.leaves(second), strict=True):
        assert (leaf == found).all(), path


@pytest.mark.parametrize("begun", [{}, {"env_steps": 3}, {"env_steps": 3, "updates": "many"}])
def test_a_state_that_began_nowhere_is_refused(begun):
    source = make_replay(make()[0])
    with pytest.raises(ValueError, match="replay began at .*; expected counts of env_steps and updates"):
        source.check_state_dict(source.state_dict() | {"begun": begun})


@pytest.mark.parametrize("transform", [ObservationTransform, lambda spec: FrameStack(spec, num_frames=3)])
def test_examples_look_like_batches(transform):
    context, engine = make(transform)
    for source in (OnPolicyBatches(context, 3, 1), make_replay(context)):
        for _ in range(2):
            source.add(engine.collect({}).experience)
        # What a sampler adds depends on the sampler: an example has weights of 1 and no rows.
        batch = next(source.batches(Progress(env_steps=10)))._replace(importance_weight=(), rows=())
        example = source.example()._replace(importance_weight=())
        for (path, leaf), found in zip(nest.leaves_with_paths(example), nest.leaves(batch), strict=True):
            assert leaf.shape == found.shape, path
            assert leaf.dtype == found.dtype, path


def test_updates_after():
    context, _ = make()
    on_policy = OnPolicyBatches(context, 3, 2)
    assert (on_policy.updates_after(20), on_policy.updates_per_block) == (2 * 2 * 4, 2 * 4)
    assert make_replay(context, updates_per_env_step=0.25, initial_env_steps=10).updates_after(50) == 10


class Inspecting(TinyAlgorithm):
    """Asks for all that a block can hold, and keeps what it got."""

    gives_priorities = True

    def rows_needed(self):
        return RowsNeeded(future=2, future_observations=1, tail=TailNeeded(0.9))

    def preprocess_experience(self, root_inputs, rollout_info, batch_info):
        self.got = root_inputs, rollout_info, batch_info
        return super().preprocess_experience(root_inputs, rollout_info, batch_info)


@pytest.mark.parametrize("num_frames", [1, 3])
def test_blocks_hold_what_is_asked_for_without_the_past(num_frames):
    context, engine = make(lambda spec: FrameStack(spec, num_frames=num_frames), algorithm=Inspecting)
    gin.parse_config(BY_PRIORITY)
    source = make_replay(context, segment_length=2)
    for _ in range(3):
        source.add(engine.collect({}).experience)
    batch = next(source.batches(Progress(env_steps=10)))
    sampled = context.algorithm.got
    assert sampled[2].position.shape == sampled[2].age.shape == sampled[0].reward.shape == (4, 2 + 2)
    assert sampled[0].observation.shape == (4, 2 + 1, 3 * num_frames)
    assert sampled[2].position[:, 0].tolist() == batch.rows.position.tolist()
    assert sampled[2].age.equal((14 - sampled[2].position) * 2)  # 15 rows of each of 2 environments
    assert sampled[2].tail.rollout_info.answered.shape == (4,)
    assert batch.importance_weight.shape == (4,)
    source.example()
    for (path, leaf), found in zip(nest.leaves_with_paths(context.algorithm.got), nest.leaves(sampled), strict=True):
        assert (leaf.shape, leaf.dtype) == (found.shape, found.dtype), path


class AfterTheEnd(TinyAlgorithm):
    def rows_needed(self):
        return RowsNeeded(future=1, tail=TailNeeded(1.0))


class Choosy(TinyAlgorithm):
    def check_experience(self, row_specs):
        raise ValueError(f"no {type(row_specs.rollout_info).__name__}, please")


class OnPolicyOnly(TinyAlgorithm):
    on_policy = True


class FromReplayOnly(TinyAlgorithm):
    needs_replay = True


class BurningIn(TinyAlgorithm):
    burn_in = 3


class Recurrent(TinyAlgorithm):
    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 2)


class FarSighted(TinyAlgorithm):
    def __init__(self, observation_spec, action_spec):
        super().__init__(observation_spec, action_spec, future=3)


class LookingBack(TinyAlgorithm):
    def rows_needed(self):
        return RowsNeeded(past=2, future=1)


class ModeSeeing(TinyAlgorithm):
    def preprocess_experience(self, root_inputs, rollout_info, batch_info):
        self.mode_seen = self.training
        return super().preprocess_experience(root_inputs, rollout_info, batch_info)


def test_what_to_set_for_priorities_is_the_algorithms_own():
    class Set(TinyAlgorithm):
        gives_priorities = True
        priority_settings = ("Set.on = True", "Set.on = False")

    context, _ = make(algorithm=Set)
    with pytest.raises(ValueError, match=r"Set gives priorities, .* = @PrioritizedSampler\(\), or set Set.on = False"):
        make_replay(context)
    gin.parse_config(BY_PRIORITY)
    context.algorithm.gives_priorities = False
    with pytest.raises(ValueError, match=r"Set gives no priorities, .* = @UniformSampler\(\), or set Set.on = True"):
        make_replay(context)


def test_targets_are_made_in_evaluation_mode():
    context, engine = make(algorithm=ModeSeeing)
    context.algorithm.train()
    source = OnPolicyBatches(context, 3, 1)
    source.add(engine.collect({}).experience)
    context.algorithm.train()
    next(source.batches(Progress()))
    assert context.algorithm.mode_seen is False
    assert context.algorithm.training


@pytest.mark.parametrize(
    ("algorithm", "make_source", "message"),
    [
        (TinyAlgorithm, lambda context: OnPolicyBatches(context, 0, 1), "mini_batch_size is 0"),
        (TinyAlgorithm, lambda context: OnPolicyBatches(context, 1, -1), "num_epochs is -1"),
        (TinyAlgorithm, lambda context: make_replay(context, batch_size=0), "batch_size is 0"),
        (TinyAlgorithm, lambda context: make_replay(context, updates_per_env_step=0), "updates_per_env_step is 0"),
        (TinyAlgorithm, lambda context: make_replay(context, initial_env_steps=-5), "initial_env_steps is -5"),
        (OnPolicyOnly, make_replay, "OnPolicyOnly is on-policy"),
        (FromReplayOnly, lambda context: OnPolicyBatches(context, 1, 1), "FromReplayOnly .* = @ReplayBatches"),
        (BurningIn, lambda context: make_replay(context, segment_length=3), "segment_length is 3 and the burn_in of"),
        (Recurrent, make_replay, "Recurrent is recurrent and learns from .* stored with a row is no state"),
        (FarSighted, lambda context: OnPolicyBatches(context, 1, 1), "FarSighted needs 3 rows"),
        (LookingBack, make_replay, "asks for 2 rows before the segment"),
        (AfterTheEnd, lambda context: OnPolicyBatches(context, 1, 1), "AfterTheEnd needs what lies between a row and"),
        (Choosy, make_replay, "no TinyInfo, please"),
        (TinyAlgorithm, lambda context: make_replay(context, capacity=8), "must hold at least one window"),
    ],
)
def test_what_does_not_fit_is_refused(algorithm, make_source, message):
    context, _ = make()
    environment = ScriptedEnvironment(2)
    context = context._replace(algorithm=algorithm(environment.observation_spec, environment.action_spec))
    with pytest.raises(ValueError, match=message):
        make_source(context)


@pytest.mark.parametrize(
    ("capacity", "settings", "message"),
    [
        (1, {}, r"^part/ReplayBuffer: capacity=1 is less than one block .* = 4\. Raise part/ReplayBuffer\.capacity"),
        (0, {}, r"^part/ReplayBuffer\.capacity is 0; it must be at least 1"),
        (8, {}, r"^part/ReplayBuffer\.capacity holds 4 rows of each environment, Trainer\.window_length is 5"),
        (100, {"batch_size": 0}, r"^part/ReplayBatches\.batch_size is 0"),
        (100, {"segment_length": 0}, r"^part/ReplayBatches\.segment_length is 0; it must be at least 1"),
    ],
)
def test_settings_are_named_in_their_scope(capacity, settings, message):
    context, _ = make()
    with pytest.raises(ValueError, match=message):
        make_replay(context._replace(prefix="part/"), capacity, **settings)
