"""What a recurrent algorithm is trained on: sequences, each with the state that was stored with its first row."""

import gin
import numpy as np
import pytest
import torch
from support import ScriptedEnvironment, TinyAlgorithm, TinyInfo

from alfish import nest, specs
from alfish.data_structures import AlgStep, Experience, LossInfo, Progress, StepType, TimeStep, time_step_spec
from alfish.networks.preprocessing import FrameStack, ObservationTransform
from alfish.rollout.acting import Actor, experience_specs
from alfish.summary.timers import Timers
from alfish.trainers.batch_source import SourceContext, TrainBatch
from alfish.trainers.on_policy_batches import OnPolicyBatches
from alfish.trainers.replay_batches import ReplayBatches
from alfish.trainers.updater import Updater

CPU = torch.device("cpu")
LENGTH = 6  # of a window


class Remembering(TinyAlgorithm):
    """Its state is a counter of rows and a vector; it keeps what `preprocess_experience` and `train_step` got."""

    def initial_state(self, batch_size):
        return {"count": torch.zeros(batch_size, dtype=torch.int64), "memory": torch.zeros(batch_size, 2)}

    def rollout_step(self, time_step, state):
        return super().rollout_step(time_step, state)._replace(state=nest.map_structure(lambda leaf: leaf + 1, state))

    def preprocess_experience(self, root_inputs, rollout_info, batch_info):
        self.first_state = batch_info.state
        return super().preprocess_experience(root_inputs, rollout_info, batch_info)

    def train_step(self, inputs, state, rollout_info):
        self.trained_on = (inputs, state, rollout_info)
        return super().train_step(inputs, state, rollout_info)


def make_context(num_envs=2, algorithm=Remembering, transform=ObservationTransform):
    spec, action_spec = ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec
    seen = transform(spec)
    learner = algorithm(seen.output_spec, action_spec)
    row_specs = experience_specs(learner, seen, time_step_spec(spec, action_spec), num_envs, CPU)
    return SourceContext(learner, seen, row_specs, num_envs, LENGTH, np.random.default_rng(1), CPU, Timers())


def make_replay(context, **settings):
    gin.bind_parameter("ReplayBuffer.capacity", 60)
    return ReplayBatches(context, **({"batch_size": 8, "updates_per_env_step": 1.0, "initial_env_steps": 0} | settings))


def window(number=0, num_envs=2, first_env=0, past=0):
    """Row t of environment b of window n: the observation is [b, t + 6n, .], the stored count 100b + t + 6n."""
    rows = torch.arange(number * LENGTH - past, (number + 1) * LENGTH + 1)[:, None].expand(-1, num_envs)
    env_id = (torch.arange(num_envs) + first_env).expand(rows.shape)
    time_step = TimeStep(
        step_type=torch.full(rows.shape, StepType.MID, dtype=torch.uint8),
        reward=rows.float(),
        discount=torch.ones(rows.shape),
        observation=torch.stack((env_id, rows, rows), dim=-1).float(),
        prev_action=torch.zeros(rows.shape, dtype=torch.int64),
        env_id=env_id.int(),
    )
    answered = slice(past, past + LENGTH)
    count = (100 * env_id + rows)[answered]
    state = {"count": count, "memory": torch.stack((-count, count), dim=-1).float()}
    return Experience(time_step, torch.zeros_like(count), TinyInfo(rows[answered].float()), state)


def assert_states_are_of_the_first_rows(batch):
    environment, row, _ = batch.inputs.observation[:, 0].unbind(-1)
    assert batch.state["count"].tolist() == (100 * environment + row).tolist()
    assert batch.state["memory"][:, 1].tolist() == batch.state["count"].tolist()
    first = batch.inputs.observation[:, :1, 1]
    assert torch.equal(batch.inputs.observation[:, :, 1], first + torch.arange(batch.inputs.reward.shape[1]))


@pytest.mark.parametrize(("length", "num_sequences"), [(None, 2), (6, 2), (3, 4), (2, 6), (1, 12)])
def test_windows_are_cut_into_sequences_with_their_states(length, num_sequences):
    context = make_context()
    source = OnPolicyBatches(context, mini_batch_size=6, num_epochs=2, sequence_length=length)
    source.add(window())
    batches = list(source.batches(Progress()))
    assert len(batches) == 2 * num_sequences * (length or 6) // 6 == source.updates_per_block
    assert source.updates_after(24) == 2 * len(batches)
    for batch in batches:
        assert batch.inputs.reward.shape == (6 // (length or 6), length or 6)
        assert_states_are_of_the_first_rows(batch)
    seen = [
        tuple(row) for batch in batches[: len(batches) // 2] for row in batch.inputs.observation.flatten(0, 1).tolist()
    ]
    assert sorted(seen) == sorted((float(b), float(t), float(t)) for b in range(2) for t in range(6))
    # Targets are made of whole windows, whose first states are those of row 0.
    assert context.algorithm.first_state["count"].tolist() == [0, 100]


def test_on_policy_windows_of_a_part_of_the_environments():
    context = make_context(num_envs=4)._replace(envs_per_window=2)
    source = OnPolicyBatches(context, mini_batch_size=12, num_epochs=1, sequence_length=3)
    source.add(window(num_envs=2, first_env=2), first_env=2)
    (batch,) = source.batches(Progress())
    assert_states_are_of_the_first_rows(batch)
    assert sorted(batch.inputs.env_id[:, 0].tolist()) == [2, 2, 3, 3]
    assert source.updates_after(4 * LENGTH) == 2
    assert source.example().inputs.reward.shape == (4, 3)


def test_replayed_segments_begin_with_their_states():
    context = make_context()
    source = make_replay(context, segment_length=3)
    for number in range(3):
        source.add(window(number))
    batches = list(source.batches(Progress(env_steps=5)))
    assert len(batches) == 5
    for batch in batches:
        assert batch.inputs.reward.shape == (8, 3)
        assert_states_are_of_the_first_rows(batch)
    assert len({count for batch in batches for count in batch.state["count"].tolist()}) > 10


def test_windows_of_several_engines_are_stored_where_they_belong():
    context = make_context(num_envs=4)
    source = make_replay(context, segment_length=2)
    for number in range(2):
        for first_env in (2, 0):
            source.add(window(number, first_env=first_env), first_env)
    batches = list(source.batches(Progress(env_steps=5)))
    for batch in batches:
        assert_states_are_of_the_first_rows(batch)
    assert {0, 1, 2, 3} == {env for batch in batches for env in batch.inputs.env_id[:, 0].tolist()}


def test_past_rows_come_before_the_state():
    context = make_context(transform=lambda spec: FrameStack(spec, num_frames=3))
    replay, on_policy = make_replay(context, segment_length=2), OnPolicyBatches(context, 6, 1, sequence_length=2)
    for source in (replay, on_policy):
        source.add(window(past=2))
        for batch in source.batches(Progress(env_steps=4)):
            newest = batch.inputs._replace(observation=batch.inputs.observation[..., -3:])
            assert_states_are_of_the_first_rows(batch._replace(inputs=newest))


@pytest.mark.parametrize("kind", ["on-policy", "replay"])
def test_examples_look_like_batches(kind):
    context = make_context()
    if kind == "replay":
        source = make_replay(context, segment_length=3)
    else:
        source = OnPolicyBatches(context, 6, 1, sequence_length=2)
    source.add(window())
    batch = next(source.batches(Progress(env_steps=9)))._replace(importance_weight=(), rows=())
    example = source.example()._replace(importance_weight=())
    for (path, leaf), found in zip(nest.leaves_with_paths(example), nest.leaves(batch), strict=True):
        assert (leaf.shape, leaf.dtype) == (found.shape, found.dtype), path


def test_an_algorithm_without_memory_stores_and_sees_no_state():
    # So it is with a part that is trained apart, while the acting algorithm is recurrent.
    context = make_context()
    tiny = TinyAlgorithm(ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec)
    apart = context._replace(algorithm=tiny)
    replay, on_policy = make_replay(apart), OnPolicyBatches(apart, 6, 1)
    assert replay.size.total < make_replay(context).size.total
    for source in (replay, on_policy):
        source.add(window())
        batch = next(source.batches(Progress(env_steps=1)))
        assert batch.state == ()
        assert batch.inputs.reward.shape[1] == 1


def test_the_updater_hands_sequences_to_a_recurrent_algorithm():
    context = make_context()
    source = OnPolicyBatches(context, mini_batch_size=6, num_epochs=1, sequence_length=3)
    source.add(window())
    batch = next(source.batches(Progress()))
    updater = Updater(context.algorithm, optimizer=torch.optim.SGD, learning_rate=0.1)
    updater.update(batch, Progress())
    inputs, state, info = context.algorithm.trained_on
    assert inputs is batch.inputs and state is batch.state and info is batch.rollout_info
    updater.update(batch._replace(state=()), Progress())
    inputs, state, info = context.algorithm.trained_on
    assert inputs.reward.shape == info.shape == (6,) and state == ()


class SumOfRows(TinyAlgorithm):
    """The loss of a row is its observation's first number times the one weight."""

    def __init__(self, observation_spec, action_spec):
        super().__init__(observation_spec, action_spec)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def train_step(self, inputs, state, rollout_info):
        return AlgStep((), state, inputs.observation[..., 0] * self.weight)

    def calc_loss(self, info):
        return LossInfo(info, {})


def test_importance_weights_count_for_all_rows_of_a_sequence_and_last_rows_not_at_all():
    observation = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]).unsqueeze(-1).expand(-1, -1, 3)
    step_type = torch.tensor([[0, 1, 2], [1, 1, 1]], dtype=torch.uint8)
    inputs = specs.zeros(time_step_spec(ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec), (2, 3))
    inputs = inputs._replace(observation=observation, step_type=step_type)
    algorithm = SumOfRows(ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec)
    updater = Updater(algorithm, optimizer=torch.optim.SGD, learning_rate=0.1)
    batch = TrainBatch(inputs, torch.zeros(2, 3), torch.tensor([0.5, 2.0]), state=torch.zeros(2, 1))
    loss = updater.update(batch, Progress()).metrics["loss"]
    assert loss.item() == pytest.approx((0.5 * (1 + 2) + 2.0 * (8 + 16 + 32)) / 5)


class OtherState(Remembering):
    def initial_state(self, batch_size):
        return super().initial_state(batch_size) | {"memory": torch.zeros(batch_size, 3)}


@pytest.mark.parametrize("make_source", [make_replay, lambda context: OnPolicyBatches(context, 6, 1)])
def test_states_that_are_not_stored_are_refused(make_source):
    context = make_context()
    without = context._replace(row_specs=context.row_specs._replace(state=()))
    with pytest.raises(
        ValueError, match="Remembering is recurrent .* but what is stored with a row is no state: collect"
    ):
        make_source(without)
    other = make_context(algorithm=OtherState).algorithm
    with pytest.raises(ValueError, match=r"OtherState is recurrent .*shape=\(3,\).* is .*shape=\(2,\)"):
        make_source(context._replace(algorithm=other))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mini_batch_size": 4}, "mini_batch_size is 4; .* whole sequences: give a multiple of 6 rows"),
        ({"mini_batch_size": 5, "sequence_length": 2}, "mini_batch_size is 5; .* give a multiple of 2 rows"),
        (
            {"mini_batch_size": 8, "sequence_length": 4},
            "sequence_length is 4; expected a divisor of .*window_length, 6",
        ),
        ({"mini_batch_size": 8, "sequence_length": 0}, "sequence_length is 0; it must be at least 1"),
    ],
)
def test_sequences_that_do_not_fit_the_window_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OnPolicyBatches(make_context(), num_epochs=1, **settings)


def test_sequences_of_an_algorithm_without_memory_are_refused():
    with pytest.raises(ValueError, match="sequence_length is 3, but TinyAlgorithm has no recurrent state"):
        OnPolicyBatches(make_context(algorithm=TinyAlgorithm), 6, 1, sequence_length=3)


class RunningMean(ObservationTransform):
    """Would be made of all rows of an episode."""

    def initial_state(self, batch_size, device):
        return torch.zeros(batch_size, 3, device=device)


@pytest.mark.parametrize("make_source", [make_replay, lambda context: OnPolicyBatches(context, 6, 1)])
def test_a_transform_that_remembers_more_than_a_block_holds_is_refused(make_source):
    context = make_context(algorithm=TinyAlgorithm, transform=RunningMean)
    message = r"RunningMean has a state, but RunningMean.past_rows is 0: .*; set past_rows to .*, at least 1"
    with pytest.raises(ValueError, match=message):
        make_source(context)


class Tenth(ObservationTransform):
    """Needs neither a state nor rows before."""

    def step(self, observation, state, begins):
        return observation / 10, state

    def unroll(self, observation, begins):
        return observation / 10


class Noting(TinyAlgorithm):
    """Keeps the observations that it answered."""

    def rollout_step(self, time_step, state):
        self.answered = time_step.observation
        return super().rollout_step(time_step, state)


def test_a_transform_without_memory_is_applied_when_acting_and_when_training():
    context = make_context(algorithm=Noting, transform=Tenth)
    rows = window()
    with torch.inference_mode():
        actor = Actor(context.algorithm, context.transform, 2, CPU)
        actor.rollout(nest.map_structure(lambda leaf: leaf[0], rows.time_step))
    assert torch.equal(context.algorithm.answered, rows.time_step.observation[0] / 10)
    source = OnPolicyBatches(context, mini_batch_size=12, num_epochs=1)
    source.add(rows)
    (batch,) = source.batches(Progress())
    assert torch.equal(batch.inputs.observation[0, 0], context.algorithm.answered[0])
