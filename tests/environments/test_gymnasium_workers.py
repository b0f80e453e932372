"""Environments in worker processes: the same rows, readable errors, nothing left behind."""

import functools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import gin
import pytest
import torch
from environment_rows import collect, empty_row, same
from processes import is_alive, wait_until_gone
from toy_environments import Counter, Doubled, OddInfo

from alfish import gin_config
from alfish.environments import workers
from alfish.environments.faults import EnvironmentFault
from alfish.environments.gymnasium_adapter import make_gymnasium


@pytest.fixture(autouse=True)
def _no_child_left():
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("name", ["toy/Counter-v0", "toy/Tree-v0"])
def test_rows_are_those_of_sync(name):
    environment = make_gymnasium(name, 2, "async", wrappers=[Doubled])
    try:
        rows = collect(environment, seed=3, steps=9)
        # Again from the middle of an episode: an end that was pending must be forgotten.
        assert same(rows, collect(environment, seed=3, steps=9))
    finally:
        environment.close()
    assert same(rows, collect(make_gymnasium(name, 2, "sync", wrappers=[Doubled]), seed=3, steps=9))
    environment.close()


def test_exception_in_a_worker_brings_its_traceback_and_ends_with_one_clear_line():
    environment = make_gymnasium("toy/Counter-v0", 2, "async", env_kwargs={"fault": "raises"})
    try:
        with pytest.raises(EnvironmentFault) as caught:
            collect(environment, seed=0, steps=3)
    finally:
        environment.close()
    lines = str(caught.value).splitlines()
    assert any("in _broken" in line for line in lines)
    where = "'toy/Counter-v0', environment 0 of 0…1, episode 1, step 2"
    assert lines[-1] == f"{where}: step raised KeyError: 'the motor is off'"


def test_death_of_a_worker_is_noticed():
    environment = make_gymnasium("toy/Counter-v0", 2, "async", env_kwargs={"fault": "dies"})
    try:
        with pytest.raises(EnvironmentFault, match=r"environment 0 of 0…1, episode 1, step 2: .*died.*exit code 7"):
            collect(environment, seed=0, steps=3)
    finally:
        environment.close()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("decoding", "raised WorkerError: UnicodeDecodeError: 'utf-8' codec can't decode byte"),
        ("two arguments", "raised LostWorkerError: its worker process failed, and its error could not be sent here"),
        ("unpicklable", "raised LostWorkerError: its worker process failed, and its error could not be sent here"),
    ],
)
def test_a_worker_that_fails_outside_of_its_environment(monkeypatch, caplog, error, message):
    monkeypatch.setattr(workers, "_CLOSE_SECONDS", 1.0)
    environment = make_gymnasium("toy/Counter-v0", 1, "async", wrappers=[functools.partial(OddInfo, error=error)])
    try:
        with pytest.raises(EnvironmentFault) as caught:
            collect(environment, seed=0, steps=1)
    finally:
        environment.close()
    assert str(caught.value).startswith(f"'toy/Counter-v0', environment 0 of 0…0, episode 1, step 1: {message}")
    if error == "decoding":
        assert "in __reduce__" in caught.value.__cause__.__notes__[0]
    assert ("cannot be unpickled here: TypeError" in caplog.text) == (error == "two arguments")


def test_workers_outlive_the_ctrl_c_that_reaches_the_whole_process_group():
    environment = make_gymnasium("toy/Counter-v0", 2, "async")
    try:
        row = empty_row(environment)
        environment.reset(0, row)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGINT)
            os.kill(process.pid, signal.SIGTERM)
        environment.step(torch.zeros(2, dtype=torch.int64), row)
        assert row.reward.tolist() == [1.0, 1.0]
    finally:
        environment.close()


OWNER = """
import sys, time
sys.path[:0] = {paths!r}
import numpy as np
from environment_rows import empty_row
from toy_environments import Spinning
from alfish.environments.gymnasium_adapter import make_gymnasium

if __name__ == "__main__":
    environment = make_gymnasium("toy/Counter-v0", 1, "async", wrappers=[Spinning])
    environment.reset(0, empty_row(environment))
    environment._env.step_async(np.zeros(1, np.int64))
    print(environment._env.processes[0].pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_worker_that_computes_without_end_ends_with_its_owner(tmp_path):
    script, here = tmp_path / "owner.py", pathlib.Path(__file__).resolve().parent
    script.write_text(OWNER.format(paths=[str(here), str(here.parent)]))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert is_alive(pid)
        owner.kill()
    wait_until_gone([pid])


def test_worker_that_hangs_is_noticed_and_ended(monkeypatch):
    monkeypatch.setattr(workers, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(workers, "_CLOSE_SECONDS", 0.2)
    environment = make_gymnasium("toy/Counter-v0", 2, "async")
    try:
        environment.reset(0, row := empty_row(environment))
        os.kill(environment._env.processes[1].pid, signal.SIGSTOP)
        with pytest.raises(EnvironmentFault, match="hangs"):
            environment.step(torch.tensor([0, 0]), row)
    finally:
        environment.close()


def test_worker_that_cannot_start():
    # A maker that works here and not in the child.
    home = os.getpid()

    def maker():
        if os.getpid() != home:
            raise RuntimeError("not here")
        return Counter()

    with pytest.raises(EnvironmentFault, match="died before its environment was ready"):
        workers.start([maker])


def test_gin_configuration_reaches_the_workers():
    gin_config.parse_text("import configured_environment\nConfiguredCounter.length = 2")
    environment = make_gymnasium("toy/Configured-v0", 1, "async")
    try:
        rows = collect(environment, seed=0, steps=3)
    finally:
        environment.close()
    assert [bool(row.is_last()) for row in rows] == [False, False, True, False]


def test_gin_reference_as_wrapper_reaches_the_workers():
    gin_config.parse_text(
        "import configured_environment\n"
        "import alfish.environments.gymnasium_adapter\n"
        "Scaled.factor = 3\n"
        "make_gymnasium.wrappers = [@Scaled]\n"
    )
    environment = make_gymnasium("toy/Counter-v0", 1, "async")
    try:
        rows = collect(environment, seed=0, steps=2)
    finally:
        environment.close()
    assert [row.reward.item() for row in rows] == [0, 3, 6]
    assert gin.query_parameter("Scaled.factor") == 3  # this process's own configuration is left alone
