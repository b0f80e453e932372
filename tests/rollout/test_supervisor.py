"""Messages to workers and back, around the loss of one."""

import os
import signal
import time

import pytest

from alfish.rollout.supervisor import RESTARTED, Supervisor
from alfish.rollout.worker_process import READY, WorkerLost, WorkerProcess, messages


def echo(pipe, number, restarts):
    """Answers each message with itself, and says which process it is."""
    pipe.send(READY)
    for message in messages(pipe):
        if message == ("end",):
            os._exit(4)
        pipe.send((number, restarts, *message))


def stillborn(pipe):
    """Ends before it is ready."""
    os._exit(1)


@pytest.fixture
def supervised():
    made = []

    def make(num_workers=2, max_restarts=3, deadline_seconds=60.0, main=echo):
        def start(number, restarts):
            arguments = (number, restarts) if main is echo else ()
            return WorkerProcess(f"worker {number}", main, arguments)

        made.append(Supervisor(start, num_workers, deadline_seconds, max_restarts))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.close(0.5)


def kill(supervisor, number):
    process = supervisor._workers[number].process
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def wait_for_its_answer(supervisor, number):
    """Waits until an answer lies in the pipe, unread."""
    assert supervisor._workers[number].pipe.poll(30)


def all_ready(supervisor):
    while any(supervisor._awaited):
        supervisor.receive(0.1)


def test_answers_come_in_order(supervised):
    supervisor = supervised(1)
    for text in "abc":
        supervisor.send(0, (text,))
    assert [supervisor.receive(30) for _ in "abc"] == [(0, (0, 0, text)) for text in "abc"]
    assert supervisor.receive(0) is None
    assert supervisor.receive(0.05) is None


def test_what_is_sent_before_a_loss_is_known_is_lost(supervised):
    supervisor = supervised()
    all_ready(supervisor)
    kill(supervisor, 0)
    supervisor.send(1, ("hello",))
    wait_for_its_answer(supervisor, 1)
    assert supervisor.receive(30) == (1, (1, 0, "hello"))
    # Both were seen at once; that worker 0 is another one is not known yet to those who ask it.
    supervisor.send(0, ("too early",))
    assert supervisor.receive(30) == (0, RESTARTED)
    supervisor.send(0, ("again",))
    assert supervisor.receive(30) == (0, (0, 1, "again"))
    assert supervisor.restarts == [1, 0]


def test_answers_from_before_a_loss_are_handed_out(supervised):
    supervisor = supervised(1)
    supervisor.send(0, ("first",))
    supervisor.send(0, ("end",))
    assert supervisor.receive(30) == (0, (0, 0, "first"))
    assert supervisor.receive(30) == (0, RESTARTED)


def test_a_deadline_is_of_each_answer(supervised):
    supervisor = supervised(1)
    all_ready(supervisor)
    supervisor._deadline_seconds = 0.5
    time.sleep(0.7)  # nothing is asked: no hang
    assert supervisor.receive(0) is None
    os.kill(supervisor._workers[0].process.pid, signal.SIGSTOP)
    supervisor.send(0, ("hello",))
    began = time.monotonic()
    assert supervisor.receive(30) == (0, RESTARTED)
    assert 0.5 <= time.monotonic() - began < 5


def test_a_worker_that_never_starts_ends_the_run_at_once(supervised):
    supervisor = supervised(1, main=stillborn)
    with pytest.raises(WorkerLost, match="worker 0 ended with exit code 1 at its start"):
        supervisor.receive(30)
