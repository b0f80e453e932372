"""Messages to workers and back, around the loss of one."""

import multiprocessing.forkserver
import os
import signal
import sys
import time

import pytest
from processes import wait_until_gone

from alfish.environments.faults import MAX_TEXT, MAX_TRACE
from alfish.rollout.supervisor import RESTARTED, Supervisor
from alfish.rollout.worker_process import READY, WorkerLost, WorkerProcess, WorkerRaised, messages


def echo(pipe, number, restarts):
    """Answers each message with itself, and says which process it is."""
    pipe.send(READY)
    for message in messages(pipe):
        if message == ("end",):
            os._exit(4)
        pipe.send((number, restarts, *message))


def stillborn(pipe, exit_code):
    """Ends before it is ready."""
    os._exit(exit_code)


def hanging(pipe, number, restarts):
    """Hangs at its start, the first time; then echoes the lengths of messages."""
    if restarts == 0:
        time.sleep(3600)
    pipe.send(READY)
    for (message,) in messages(pipe):
        pipe.send((len(message),))


def with_a_helper(pipe, number, restarts):
    """Forks a process, and tells which."""
    helper = os.fork()
    if helper == 0:
        time.sleep(3600)
    pipe.send(READY)
    for _ in messages(pipe):
        pipe.send((os.getpid(), helper))


def leaving(pipe):
    """Exits as programs do."""
    sys.exit(3)


def talkative(pipe):
    """Says too much as it fails."""
    raise ValueError("no " * 1_000_000)


@pytest.fixture
def supervised():
    made = []

    def make(num_workers=2, max_restarts=3, deadline_seconds=60.0, main=echo, arguments=None, start_method=None):
        def start(number, restarts):
            given = (number, restarts) if arguments is None else arguments
            return WorkerProcess(f"worker {number}", main, given, start_method)

        made.append(Supervisor("Owner", start, num_workers, deadline_seconds, max_restarts))
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


def test_time_in_which_nobody_looked_is_no_hang(supervised):
    supervisor = supervised(1)
    all_ready(supervisor)
    os.kill(supervisor._workers[0].process.pid, signal.SIGSTOP)
    supervisor.send(0, ("hello",))
    supervisor._busy_since[0] -= 100  # as if all had been stopped, as a job may be
    supervisor._looked_at -= 100
    assert supervisor.receive(0.1) is None
    supervisor._busy_since[0] -= 100
    assert supervisor.receive(0.1) == (0, RESTARTED)


def test_sending_does_not_wait_for_a_worker_that_hangs_at_its_start(supervised):
    supervisor = supervised(1, main=hanging)
    supervisor.send(0, ("x" * 3_000_000,))
    supervisor._busy_since[0] -= 100
    assert supervisor.receive(30) == (0, RESTARTED)
    supervisor.send(0, ("y" * 3_000_000,))
    assert supervisor.receive(30) == (0, (3_000_000,))


def test_many_messages_to_a_worker_that_does_not_read_are_held_back(supervised):
    supervisor = supervised(1)
    all_ready(supervisor)
    process = supervisor._workers[0].process
    os.kill(process.pid, signal.SIGSTOP)
    texts = [f"{number}" * 1000 for number in range(300)]
    for text in texts:
        supervisor.send(0, (text,))
    os.kill(process.pid, signal.SIGCONT)
    assert [supervisor.receive(30)[1][2] for _ in texts] == texts


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_the_processes_of_a_lost_worker_neither_hide_nor_survive_its_end(supervised, start_method):
    supervisor = supervised(1, main=with_a_helper, start_method=start_method)
    supervisor.send(0, ("who?",))
    _, (pid, helper) = supervisor.receive(30)
    os.kill(pid, signal.SIGKILL)
    assert supervisor.receive(5) == (0, RESTARTED)
    wait_until_gone([helper])
    supervisor.send(0, ("who?",))
    _, pids = supervisor.receive(30)
    supervisor.close()
    wait_until_gone(pids)


def test_workers_outlive_the_server_that_forked_them(supervised):
    supervisor = supervised(1, start_method="forkserver")
    all_ready(supervisor)
    os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    supervisor.send(0, ("hello",))
    assert supervisor.receive(30) == (0, (0, 0, "hello"))
    assert supervisor.receive(0.2) is None
    pid = supervisor._workers[0].process.pid
    os.kill(pid, signal.SIGSTOP)
    supervisor.send(0, ("hello",))
    supervisor._busy_since[0] -= 100
    assert supervisor.receive(30) == (0, RESTARTED)
    wait_until_gone([pid])
    supervisor.send(0, ("hello",))
    assert supervisor.receive(30) == (0, (0, 1, "hello"))


@pytest.mark.parametrize(("answers", "seconds"), [(19, 300), (20, 100)])
def test_losses_count_in_a_row(supervised, answers, seconds):
    supervisor = supervised(2, max_restarts=1)

    def end_after(answers, seconds):
        for number in range(answers):
            supervisor.send(0, (number,))
        assert [supervisor.receive(30)[1][2] for _ in range(answers)] == list(range(answers))
        supervisor._born[0] -= seconds
        supervisor.send(0, ("end",))

    for losses in (1, 2, 3):
        end_after(20, 300)
        assert supervisor.receive(30) == (0, RESTARTED)
        assert supervisor.restarts == [losses, 0]
    end_after(answers, seconds)
    with pytest.raises(WorkerLost, match=r"worker 0 .* started again 1 times before, which is Owner.max_restarts"):
        supervisor.receive(30)


def test_the_silence_of_a_hang_is_no_life(supervised):
    supervisor = supervised(1, max_restarts=0)
    for number in range(20):
        supervisor.send(0, (number,))
        assert supervisor.receive(30)[1][2] == number
    os.kill(supervisor._workers[0].process.pid, signal.SIGSTOP)
    supervisor.send(0, ("hello",))
    supervisor._busy_since[0] -= 400
    supervisor._born[0] -= 400
    with pytest.raises(WorkerLost, match="started again 0 times before"):
        supervisor.receive(30)


def test_a_hang_names_the_setting(supervised):
    supervisor = supervised(1, main=hanging, max_restarts=0)
    supervisor._busy_since[0] -= 100
    with pytest.raises(WorkerLost, match="gave no answer for 60 s, which is Owner.deadline_seconds: it hangs"):
        supervisor.receive(30)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_worker_that_never_starts_ends_the_run_at_once(supervised, exit_code):
    supervisor = supervised(1, main=stillborn, arguments=(exit_code,))
    with pytest.raises(WorkerLost, match=f"worker 0 ended with exit code {exit_code} at its start"):
        supervisor.receive(30)


def test_who_exits_is_shown(supervised):
    with pytest.raises(WorkerRaised, match="worker 0 raised SystemExit: 3") as raised:
        supervised(1, main=leaving, arguments=()).receive(30)
    assert "in leaving" in raised.value.__notes__[0]


def test_a_message_without_end_is_shortened(supervised):
    with pytest.raises(ValueError, match="worker 0: no no .* characters") as raised:
        supervised(1, main=talkative, arguments=()).receive(30)
    assert len(str(raised.value)) < 1.1 * MAX_TEXT
    assert len(raised.value.__notes__[0]) < 1.1 * MAX_TRACE
