"""Workers that raise, are killed, hang or lose their learner."""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import engine_cases
import pytest
import torch
from engine_cases import CASES, WITH_WORKERS, Scripted, Trouble, assert_same_rows, iterate, make_engine
from processes import is_alive, wait_until_gone

from alfish import nest
from alfish.data_structures import StepType
from alfish.environments.faults import EnvironmentFault
from alfish.rollout.worker_process import WorkerLost, WorkerRaised

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(autouse=True)
def _engines_are_closed():
    yield
    engine_cases.close_engines()
    assert multiprocessing.active_children() == []


@pytest.fixture
def trouble(tmp_path):
    def make(kind, **when):
        file = tmp_path / "trouble"
        file.touch()
        return Trouble(file, kind, **when)

    return make


def iterate_all(engine, algorithm, num_windows):
    return [iterate(engine, algorithm, window) for window in range(num_windows)]


def process_of(engine, worker):
    return engine._supervisor._workers[worker].process


def kill(engine, worker):
    os.kill(process_of(engine, worker).pid, signal.SIGKILL)


def check_rows_follow_each_other(windows, past=0):
    """No row is torn, doubled or missing: the script of the environments tells. Returns how many were cut short."""
    cuts = 0
    for before, after in zip(windows, windows[1:], strict=False):
        end = nest.map_structure(lambda leaf: leaf[-past - 1 :], before.time_step)
        begin = nest.map_structure(lambda leaf: leaf[: past + 1], after.time_step)
        cut = begin.step_type != end.step_type
        assert begin.step_type[cut].eq(L).all()
        assert not cut[:-1].any()
        for name in ("observation", "discount", "reward", "prev_action", "env_id"):
            assert torch.equal(getattr(begin, name), getattr(end, name))
        cuts += int(cut.any())
    for window in windows:
        rows = nest.map_structure(lambda leaf: leaf[past:], window.time_step)
        follows_last = rows.step_type[:-1] == L
        assert torch.equal(rows.step_type[1:] == F, follows_last)
        steps = rows.observation[..., 2]
        assert torch.equal(steps[1:], torch.where(follows_last, 0.0, steps[:-1] + 1))
        same = (rows.observation[1:, :, :2] == rows.observation[:-1, :, :2]).all(dim=-1)
        assert same[~follows_last].all()
        assert not same[follows_last].any()
        assert torch.equal(rows.prev_action[1:], torch.where(follows_last, 0, window.action))
    return cuts


def cases(those):
    return pytest.mark.parametrize("case", those, ids=[case.name for case in those])


@cases(WITH_WORKERS)
def test_an_environment_that_raises_is_named(case, trouble):
    engine, algorithm = make_engine(case.make, experiment=Scripted(trouble=trouble("raise")))
    message = (
        r"worker \d \(environments \d…\d of 0…3\): 'Scripted', environment [13] of 0…3, .* step 2: the door is locked\n"
    )
    with pytest.raises(EnvironmentFault, match=message) as raised:
        iterate_all(engine, algorithm, 5)
    (note,) = raised.value.__notes__
    assert "Traceback" in note
    assert "in befall" in note


def test_a_bug_shows_its_own_traceback(trouble):
    engine, algorithm = make_engine(BY_NAME["background"].make, experiment=Scripted(trouble=trouble("bug")))
    with pytest.raises(WorkerRaised, match="raised ZeroDivisionError: a bug in the environment's adapter") as raised:
        iterate_all(engine, algorithm, 5)
    assert "in befall" in raised.value.__notes__[0]


def test_parts_that_cannot_be_built_are_the_users_error():
    engine, algorithm = make_engine(BY_NAME["two_workers"].make, experiment=Scripted(fails=True))
    with pytest.raises(ValueError, match="Scripted.fails is True; expected False"):
        iterate(engine, algorithm, 0)


def test_an_experiment_that_cannot_be_sent_is_refused():
    engine, algorithm = make_engine(BY_NAME["background"].make)
    engine._context = engine._context._replace(make_experiment=lambda: None)
    with pytest.raises(ValueError, match="cannot be told what to build .*; give a function or class of a module"):
        iterate(engine, algorithm, 0)


def test_other_rows_than_the_learners_are_refused():
    engine, algorithm = make_engine(BY_NAME["background"].make)
    engine._context = engine._context._replace(make_experiment=Scripted(num_frames=3))
    with pytest.raises(ValueError, match="store other rows than the learner's"):
        iterate(engine, algorithm, 0)


@cases(WITH_WORKERS)
def test_a_killed_worker_is_replaced(case):
    engine, algorithm = make_engine(case.make)
    windows = {group: [] for group in range(0, 4, engine.window_envs)}
    for window in range(12):
        if window in (0, 1, 5):
            engine._start()
            kill(engine, window % case.units)
        began = time.monotonic()
        collected = iterate(engine, algorithm, window)
        assert time.monotonic() - began < 5
        windows[collected.first_env].append(collected.experience)
        # The weights are those that were asked for, although the window was collected by another process.
        assert collected.experience.rollout_info.weight.eq(max(0, window - case.max_staleness)).all()
    assert engine.metrics() == {"restarts": 3.0}
    assert sum(check_rows_follow_each_other(each) for each in windows.values()) > 0


@cases([BY_NAME[name] for name in ("background", "background_ahead", "two_workers_ahead", "in_turns_ahead")])
def test_a_worker_that_dies_in_a_window_leaves_nothing_of_it(case, trouble):
    # It dies while the last row of a window is made, when all others have been written.
    experiment = Scripted(num_frames=3, trouble=trouble("exit", episode=3, step=1))
    engine, algorithm = make_engine(case.make, experiment=experiment)
    windows = {group: [] for group in range(0, 4, engine.window_envs)}
    for window in range(8):
        collected = iterate(engine, algorithm, window)
        windows[collected.first_env].append(collected.experience)
    assert engine.metrics() == {"restarts": 1.0}
    assert sum(check_rows_follow_each_other(each, past=2) for each in windows.values()) == 1


def test_a_worker_that_hangs_is_replaced(trouble):
    experiment = Scripted(trouble=trouble("hang"))
    engine, algorithm = make_engine(BY_NAME["two_workers"].make, experiment=experiment, deadline_seconds=60.0)
    windows = [iterate(engine, algorithm, 0).experience]
    engine._supervisor._deadline_seconds = 1.0  # only now: a start takes longer where much else runs
    windows += [iterate(engine, algorithm, window).experience for window in range(1, 4)]
    assert engine.metrics() == {"restarts": 1.0}
    check_rows_follow_each_other(windows)


def test_lost_workers_are_replaced_so_often_and_no_more():
    engine, algorithm = make_engine(BY_NAME["background"].make, max_restarts=1)
    iterate(engine, algorithm, 0)
    kill(engine, 0)
    iterate(engine, algorithm, 1)
    kill(engine, 0)
    with pytest.raises(
        WorkerLost,
        match=r"was killed by SIGKILL; perhaps .* started again 1 times .* which is BackgroundEngine.max_restarts",
    ):
        iterate(engine, algorithm, 2)


def test_a_dead_worker_is_replaced_while_the_learner_trains():
    engine, algorithm = make_engine(BY_NAME["background"].make)
    iterate(engine, algorithm, 0)
    kill(engine, 0)
    end = time.monotonic() + 5
    while engine.metrics() == {"restarts": 0.0}:
        assert time.monotonic() < end
        engine.poll()
        time.sleep(0.01)


def test_a_worker_that_is_lost_after_a_resume_goes_on_from_the_checkpoint():
    case = BY_NAME["background_ahead"]
    engine, algorithm = make_engine(case.make)
    windows = [iterate(engine, algorithm, window).experience for window in range(3)]
    engine.cut()
    other, resumed = make_engine(case.make)
    other.load_state_dict(engine.state_dict())
    other._start()
    kill(other, 0)
    windows += [iterate(other, resumed, window).experience for window in range(3, 7)]
    check_rows_follow_each_other(windows)
    # With other random numbers than those with which the one that was lost may have come to grief.
    undisturbed = [iterate(engine, algorithm, window).experience for window in range(3, 5)]
    assert torch.equal(windows[3].rollout_info.drawn, undisturbed[0].rollout_info.drawn)
    assert not torch.equal(windows[4].rollout_info.drawn, undisturbed[1].rollout_info.drawn)
    assert torch.equal(windows[4].time_step.step_type[0], torch.full((4,), L, dtype=torch.uint8))


def test_a_run_with_a_loss_behind_it_resumes_alike():
    case = BY_NAME["two_workers_ahead"]
    engine, algorithm = make_engine(case.make)
    iterate(engine, algorithm, 0)
    kill(engine, 1)
    iterate(engine, algorithm, 1)
    engine.cut()
    saved = engine.state_dict()
    expected = [iterate(engine, algorithm, window) for window in range(2, 6)]
    other, resumed = make_engine(case.make)
    with torch.no_grad():
        resumed.weight.fill_(2)
        resumed.count.fill_(4)
    other.load_state_dict(saved)
    for window, collected in enumerate(expected, start=2):
        assert_same_rows(collected, iterate(other, resumed, window))
    assert other.metrics() == {"restarts": 1.0}


def test_workers_leave_signals_to_the_learner():
    engine, algorithm = make_engine(BY_NAME["background"].make)
    iterate(engine, algorithm, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process_of(engine, 0).pid, number)
    iterate(engine, algorithm, 1)
    assert engine.metrics() == {"restarts": 0.0}


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads /proc")
def test_workers_are_forked_from_a_process_without_threads():
    engine, algorithm = make_engine(BY_NAME["background"].make, start_method="forkserver")
    iterate(engine, algorithm, 0)
    status = pathlib.Path(f"/proc/{process_of(engine, 0).pid}/status").read_text().splitlines()
    values = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert int(values["PPid"]) != os.getpid()
    server = pathlib.Path(f"/proc/{values['PPid']}/status").read_text()
    assert "Threads:\t1\n" in server


def test_a_busy_worker_is_killed_at_the_end(trouble):
    engine, algorithm = make_engine(
        BY_NAME["background_ahead"].make, window_length=2, experiment=Scripted(trouble=trouble("hang", episode=1))
    )
    iterate(engine, algorithm, 0)  # the window ahead hangs
    engine._supervisor.close(0.2)
    assert multiprocessing.active_children() == []


LEARNER = """
    import pathlib, sys, time
    sys.path[:0] = {paths!r}
    from engine_cases import CASES, Scripted, Trouble, iterate, make_engine

    if __name__ == "__main__":
        case = next(case for case in CASES if case.name == "two_workers_ahead")
        trouble = Trouble(pathlib.Path({trouble!r}), "hang", episode=1)
        engine, algorithm = make_engine(case.make, window_length=2, experiment=Scripted(trouble=trouble))
        iterate(engine, algorithm, 0)
        print(*[worker.process.pid for worker in engine._supervisor._workers.values()], flush=True)
        {then}
"""


@contextlib.contextmanager
def run_learner(tmp_path, then, hangs):
    tests = pathlib.Path(__file__).resolve().parent.parent
    script, trouble = tmp_path / "learner.py", tmp_path / "trouble"
    if hangs:
        trouble.touch()
    paths = [str(tests)]
    script.write_text(textwrap.dedent(LEARNER).format(paths=paths, trouble=str(trouble), then=then))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as learner:
        try:
            yield learner
        finally:
            learner.kill()


def names_of_shared_memory(pid):
    """Where the process maps shared memory; `(deleted)` behind a name that nobody can find any more."""
    maps = pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.partition("/dev/shm/")[2] for line in maps if "/dev/shm/" in line]


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="reads /proc")
def test_a_learner_that_is_killed_leaves_nothing_behind(tmp_path):
    with run_learner(tmp_path, "time.sleep(600)", hangs=True) as learner:
        pids = [int(pid) for pid in learner.stdout.readline().split()]
        names = [names_of_shared_memory(pid) for pid in (learner.pid, *pids)]
        assert all(map(is_alive, pids))
        learner.kill()
    wait_until_gone(pids)
    assert all(names)  # all three see the windows and the weights
    assert all(name.endswith("(deleted)") for each in names for name in each)


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_learner_that_forgets_to_close_ends_with_its_workers(tmp_path):
    with run_learner(tmp_path, "raise SystemExit(7)", hangs=False) as learner:
        pids = [int(pid) for pid in learner.stdout.readline().split()]
        assert learner.wait(60) == 7
    wait_until_gone(pids)
