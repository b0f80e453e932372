"""What every engine does: the rows of act-step loops side by side, stale by exactly as much as was asked for."""

import multiprocessing

import engine_cases
import numpy as np
import pytest
import torch
from engine_cases import CASES, CPU, SYNCHRONOUS, WITH_WORKERS, Scripted, assert_same_rows, iterate, make_engine

from alfish import nest
from alfish.data_structures import Progress, StepType, time_step_spec
from alfish.rollout.acting import experience_specs
from alfish.rollout.collector import Collector
from alfish.rollout.same_process_engine import SameProcessEngine
from alfish.rollout.unit_streams import UnitStreams, unit_sequence
from alfish.rollout.window import Window, allocate
from alfish.summary.timers import Timers

F, L = StepType.FIRST, StepType.LAST


@pytest.fixture(autouse=True)
def _engines_are_closed():
    yield
    engine_cases.close_engines()
    assert multiprocessing.active_children() == []


def cases(those):
    return pytest.mark.parametrize("case", those, ids=[case.name for case in those])


class SideBySide:
    """The definition: one act-step loop for each acting unit, in turns, in this process."""

    def __init__(self, case, num_envs=4, window_length=5, seed=3, experiment=None):
        self._case = case
        self._each = num_envs // case.units
        self._units = []
        for unit in range(case.units):
            environment, transform, algorithm = (experiment or Scripted()).build(self._each, CPU)
            row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
            streams = UnitStreams(unit_sequence(np.random.SeedSequence(seed), unit), CPU)
            collector = Collector(
                environment, algorithm, transform, row_specs, CPU, streams, Timers(), unit * self._each
            )
            stored = experience_specs(algorithm, transform, row_specs, self._each, CPU)
            window = Window(allocate(stored, window_length, self._each, transform.past_rows), transform.past_rows)
            self._units.append((collector, window, algorithm))

    def collect(self, iteration, window):
        """The rows of a window, answered with the weights after so many iterations."""
        groups = self._case.units // self._case.per_window
        first = window % groups * self._case.per_window
        found = []
        for collector, memory, algorithm in self._units[first : first + self._case.per_window]:
            with torch.no_grad():
                algorithm.weight.fill_(iteration)
                algorithm.count.fill_(2 * iteration)
            algorithm.after_train_iter(Progress(fraction=iteration / 100))
            collector.collect(memory)
            found.append(memory.experience)
        return nest.map_structure(lambda *leaves: torch.cat(leaves, dim=1), *found), first * self._each

    def cut(self):
        for collector, _, _ in self._units:
            collector.cut()


@cases(CASES)
def test_rows_are_those_of_loops_side_by_side(case):
    engine, algorithm = make_engine(case.make)
    expected = SideBySide(case)
    assert engine.window_envs == 4 // case.units * case.per_window
    for window in range(5):
        collected = iterate(engine, algorithm, window)
        rows, first_env = expected.collect(max(0, window - case.max_staleness), window)
        assert_same_rows(rows, collected.experience)
        assert collected.first_env == first_env
        assert collected.staleness == min(window, case.max_staleness)


@cases(SYNCHRONOUS)
def test_frames_are_kept_and_cuts_fall_alike(case):
    experiment = Scripted(num_frames=3)
    engine, algorithm = make_engine(case.make, experiment=experiment)
    expected = SideBySide(case, experiment=experiment)
    for window in range(5):
        rows, _ = expected.collect(window, window)
        assert_same_rows(rows, iterate(engine, algorithm, window).experience)
        if window == 2:
            engine.cut()
            expected.cut()


@cases(CASES)
def test_a_cut_closes_what_follows_the_windows_ahead(case):
    engine, algorithm = make_engine(case.make)
    groups = case.units // case.per_window
    for window in range(4):
        iterate(engine, algorithm, window)
    engine.cut()
    # Window 4 + m is the first that was not ordered before the cut, then one for each of the other groups.
    for window in range(4, 4 + case.max_staleness + groups):
        rows = iterate(engine, algorithm, window).experience.time_step
        begins_anew = rows.step_type[0].eq(L).all() and rows.step_type[1].eq(F).all()
        assert bool(begins_anew) == (window >= 4 + case.max_staleness)


@cases(CASES)
def test_a_resumed_engine_goes_on_alike(case):
    engine, algorithm = make_engine(case.make)
    for window in range(3):
        iterate(engine, algorithm, window)
    engine.cut()
    saved = engine.state_dict()
    expected = [iterate(engine, algorithm, window) for window in range(3, 8)]

    # Another seed, and other numbers of torch: the state brings its own.
    other, resumed = make_engine(case.make, seed=8)
    with torch.no_grad():
        resumed.weight.fill_(3)
        resumed.count.fill_(6)
    torch.manual_seed(1)
    other.check_state_dict(saved)
    other.load_state_dict(saved)
    for window, collected in enumerate(expected, start=3):
        assert_same_rows(collected, iterate(other, resumed, window))


@cases(WITH_WORKERS)
def test_a_state_can_be_saved_before_and_loaded_into_a_running_engine(case):
    engine, algorithm = make_engine(case.make)
    begun = engine.state_dict()
    first = [iterate(engine, algorithm, window) for window in range(3)]
    engine.cut()
    engine.load_state_dict(begun)
    with torch.no_grad():
        algorithm.weight.fill_(0)
        algorithm.count.fill_(0)
    for window, collected in enumerate(first):
        assert_same_rows(collected, iterate(engine, algorithm, window))


def test_the_learners_random_numbers_are_left_alone():
    engine, algorithm = make_engine(SameProcessEngine)
    before = torch.get_rng_state()
    iterate(engine, algorithm, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_weights_are_published_only_when_they_were_trained():
    engine, algorithm = make_engine(CASES[1].make)
    progress = {"": Progress(0, 0, 7, 0.0)}
    for _ in range(3):
        with torch.no_grad():
            algorithm.weight += 1
        told = engine.collect(progress).experience.rollout_info.weight
        assert told.eq(1).all()
    told = engine.collect({"": Progress(0, 0, 8, 0.0)}).experience.rollout_info.weight
    assert told.eq(3).all()


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_start_methods(start_method):
    engine, algorithm = make_engine(CASES[1].make, start_method=start_method)
    rows, _ = SideBySide(CASES[1]).collect(0, 0)
    assert_same_rows(rows, iterate(engine, algorithm, 0).experience)


def test_nothing_is_started_before_it_is_needed_and_closing_twice_is_allowed():
    engine, algorithm = make_engine(CASES[4].make)
    engine.cut()
    engine.poll()
    assert multiprocessing.active_children() == []
    iterate(engine, algorithm, 0)
    assert len(multiprocessing.active_children()) == 2
    engine.close()
    engine.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_workers": 3}, "Trainer.num_envs is 4; it must be a multiple of the 3 of MultiProcessEngine.num_workers"),
        ({"workers_per_batch": 3}, "workers_per_batch is 3; it must divide the 2 of MultiProcessEngine.num_workers"),
        ({"num_workers": 0}, "MultiProcessEngine.num_workers is 0"),
        ({"max_staleness": -1}, "MultiProcessEngine.max_staleness is -1"),
        ({"start_method": "fork"}, "MultiProcessEngine.start_method is 'fork'; expected one of"),
        ({"worker_device": "tpu"}, "MultiProcessEngine.worker_device is 'tpu'; expected 'cpu', 'cuda' or 'cuda:N'"),
        ({"deadline_seconds": 0.0}, "MultiProcessEngine.deadline_seconds is 0.0; it must be larger than 0"),
        ({"max_restarts": -1}, "MultiProcessEngine.max_restarts is -1"),
        ({"pin_memory": True}, "MultiProcessEngine.pin_memory is True, which needs a GPU; the device is cpu"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(settings, message):
    make = engine_cases.MultiProcessEngine
    with pytest.raises(ValueError, match=message):
        make_engine(make, **({"num_workers": 2, "max_staleness": 0} | settings))


def test_a_state_of_another_engine_is_refused_in_one_line():
    engine, algorithm = make_engine(CASES[5].make)
    iterate(engine, algorithm, 0)
    engine.cut()
    state = engine.state_dict()
    for make, sizes, message in [
        (CASES[4].make, {}, "max_staleness 2 -> 0; set that back"),
        (CASES[5].make, {"num_envs": 2}, "Trainer.num_envs 4 -> 2; set that back"),
        (CASES[5].make, {"window_length": 7}, "as with another Trainer.window_length; set that back"),
        (CASES[1].make, {}, "with Trainer.engine = @MultiProcessEngine, and the run has BackgroundEngine now; set"),
        (SameProcessEngine, {}, "with Trainer.engine = @MultiProcessEngine, and the run has SameProcessEngine now"),
    ]:
        other, _ = make_engine(make, **sizes)
        with pytest.raises(ValueError, match=message) as raised:
            other.check_state_dict(state)
        assert "\n" not in str(raised.value)
    same_process, _ = make_engine(SameProcessEngine)
    with pytest.raises(
        ValueError, match="with Trainer.engine = @SameProcessEngine, and the run has MultiProcessEngine now"
    ):
        engine.check_state_dict(same_process.state_dict())


@cases(CASES)
def test_who_acts_sees_the_numbers_that_environments_have_in_the_run(case):
    engine, algorithm = make_engine(case.make, experiment=Scripted(num_frames=2))
    for iteration in range(4):
        collected = iterate(engine, algorithm, iteration)
        numbers = torch.arange(engine.window_envs, dtype=torch.int32) + collected.first_env
        assert collected.experience.rollout_info.env_id.eq(numbers).all()
        assert collected.experience.time_step.env_id.eq(numbers).all()
