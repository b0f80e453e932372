"""The act-step loop: what a window holds, and what a cut does to it."""

import copy

import pytest
import torch
from engine_parts import collect, engine_context, same_process_engine
from support import ScriptedEnvironment, TinyAlgorithm

from alfish import nest
from alfish.data_structures import AlgStep, StepType, time_step_spec
from alfish.networks.preprocessing import FrameStack, ObservationTransform
from alfish.rollout.acting import Actor, experience_specs
from alfish.rollout.same_process_engine import SameProcessEngine

CPU = torch.device("cpu")
F, M, L = StepType.FIRST, StepType.MID, StepType.LAST


def make_engine(num_envs=2, window_length=4, transform=ObservationTransform, algorithm=TinyAlgorithm, seed=0):
    environment = ScriptedEnvironment(num_envs)
    seen = transform(environment.observation_spec)
    learner = algorithm(seen.output_spec, environment.action_spec)
    return same_process_engine(environment, learner, seen, window_length, seed=seed), environment


def test_windows_follow_each_other_without_a_gap():
    engine, _ = make_engine()
    first, second = collect(engine), collect(engine)
    steps = torch.cat([first.time_step.observation[:-1], second.time_step.observation], dim=0)[:, :, 2]
    assert steps[:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert steps[:, 1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    for leaf, continued in zip(nest.leaves(first.time_step), nest.leaves(second.time_step), strict=True):
        assert torch.equal(leaf[-1], continued[0])


def test_step_types_and_discounts():
    window = collect(make_engine(window_length=8)[0]).time_step
    assert window.step_type[:, 0].tolist() == [F, M, M, L, F, M, M, L, F]
    assert window.step_type[:, 1].tolist() == [F, M, M, M, L, F, M, M, M]
    assert window.discount[3].tolist() == [0, 1]
    assert window.discount[4].tolist() == [1, 1]  # environment 1 is truncated: no end of its value


def test_answers_belong_to_their_rows():
    engine, environment = make_engine()
    window = collect(engine)
    assert torch.equal(window.rollout_info.answered, window.time_step.observation[:-1, :, 2])
    assert torch.equal(window.action, torch.stack(environment.actions))
    assert torch.equal(window.time_step.prev_action[1:4], window.action[:3])


def test_a_cut_closes_the_episodes_and_resets():
    engine, environment = make_engine()
    before = collect(engine)
    assert before.time_step.step_type[-1].tolist() == [F, L]
    engine.cut()
    after = collect(engine).time_step
    assert after.step_type[0].tolist() == [L, L]
    assert after.discount[0].tolist() == [1, 1]
    assert after.step_type[1].tolist() == [F, F]
    assert after.observation[1, :, 2].tolist() == [0, 0]
    assert len(environment.resets) == 2
    assert len(environment.actions) == 4 + 3


def test_a_restored_engine_goes_on_alike():
    engine, _ = make_engine(transform=lambda spec: FrameStack(spec, num_frames=3), window_length=3)
    collect(engine)
    engine.cut()
    saved = copy.deepcopy(engine.state_dict())
    expected = [collect(engine) for _ in range(2)]

    other, _ = make_engine(transform=lambda spec: FrameStack(spec, num_frames=3), window_length=3, seed=7)
    torch.manual_seed(99)
    other.load_state_dict(saved)
    for window in expected:
        for (path, leaf), found in zip(nest.leaves_with_paths(window), nest.leaves(collect(other)), strict=True):
            assert torch.equal(leaf, found), path


def test_windows_follow_from_the_engines_own_random_numbers():
    first, second = make_engine(seed=3)[0], make_engine(seed=3)[0]
    other = make_engine(seed=4)[0]
    actions = []
    for number in range(3):
        torch.manual_seed(number)  # training draws between windows, or other seeds before the first
        before = torch.get_rng_state()
        window = collect(first)
        assert torch.equal(before, torch.get_rng_state())
        torch.randn(number)
        assert torch.equal(window.action, collect(second).action)
        actions.append((window.action, collect(other).action))
    assert any(not torch.equal(mine, others) for mine, others in actions)
    assert not torch.equal(actions[0][0], actions[1][0])


def test_past_rows_stand_before_the_window():
    engine, _ = make_engine(transform=lambda spec: FrameStack(spec, num_frames=3), window_length=4)
    first, second = collect(engine).time_step, collect(engine).time_step
    assert first.step_type.shape[0] == 2 + 4 + 1
    assert first.step_type[:2].eq(L).all()
    assert torch.equal(second.observation[:3], first.observation[-3:])


def test_actor_zeroes_the_state_where_an_episode_begins():
    class Counting(TinyAlgorithm):
        def initial_state(self, batch_size):
            return torch.zeros(batch_size)

        def rollout_step(self, time_step, state):
            return AlgStep(time_step.prev_action, state + 1, (state.clone(),))

    engine, _ = make_engine(algorithm=Counting, window_length=9)
    window = collect(engine)
    assert window.rollout_info[0][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert window.rollout_info[0][:, 1].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert torch.equal(window.state, window.rollout_info[0])


def test_experience_specs_leave_random_numbers_alone():
    environment = ScriptedEnvironment(2)
    transform = ObservationTransform(environment.observation_spec)
    algorithm = TinyAlgorithm(transform.output_spec, environment.action_spec)
    row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
    before = torch.get_rng_state()
    from_zeros = experience_specs(algorithm, transform, row_specs, 2, CPU)
    assert torch.equal(before, torch.get_rng_state())
    assert from_zeros.action.shape == ()
    assert from_zeros.rollout_info.answered.shape == ()


def test_actor_without_state_hands_rows_on():
    environment = ScriptedEnvironment(2)
    transform = ObservationTransform(environment.observation_spec)
    actor = Actor(TinyAlgorithm(transform.output_spec, environment.action_spec), transform, 2, CPU)
    window = collect(make_engine()[0])
    row = nest.map_structure(lambda leaf: leaf[0], window.time_step)
    assert actor.predict(row).tolist() == [0, 0]


def test_bad_window_length():
    with pytest.raises(ValueError, match="window_length is 0"):
        make_engine(window_length=0)


def test_pinned_memory_needs_a_gpu():
    environment = ScriptedEnvironment(2)
    transform = ObservationTransform(environment.observation_spec)
    context = engine_context(environment, TinyAlgorithm(transform.output_spec, environment.action_spec), transform, 4)
    with pytest.raises(ValueError, match="SameProcessEngine.pin_memory is True, which needs a GPU; the device is cpu"):
        SameProcessEngine(context, pin_memory=True)


def test_a_state_of_other_environments_is_refused_in_one_line():
    engine, _ = make_engine()
    collect(engine)
    engine.cut()
    state = engine.state_dict()
    other, _ = make_engine(num_envs=3, transform=lambda spec: FrameStack(spec, num_frames=4))
    message = "of this run: rows that a frame stack keeps 1 -> 4, Trainer.num_envs 2 -> 3; set that back, or"
    with pytest.raises(ValueError, match=message):
        other.check_state_dict(state)
    for rows, change in (
        (state["rows"][:-1], "leaves of a row 5 -> 6;"),
        ([row.double() if row.dim() > 2 else row for row in state["rows"]], r"observation torch.float64 \(3,\) -> "),
    ):
        with pytest.raises(ValueError, match=f"of this run: {change}"):
            engine.check_state_dict(state | {"rows": rows})


def test_a_state_of_another_engine_is_refused_in_one_line():
    engine, _ = make_engine()
    with pytest.raises(ValueError, match="written with another Trainer.engine; set that back"):
        engine.check_state_dict({"workers": []})
