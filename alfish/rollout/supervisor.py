"""Watching worker processes: no death, no hang and no error of one goes unnoticed."""

import atexit
import collections
import time
from collections.abc import Callable
from multiprocessing import connection as pipes
from typing import Any

from absl import logging

from alfish.checks import check_at_least
from alfish.rollout.worker_process import CLOSE, READY, WorkerLost, WorkerProcess

RESTARTED = ("restarted",)
"""The message that stands for: this worker was lost; a new one is there, and has been asked nothing yet."""

_CLOSE_SECONDS = 5.0
_POLL_SECONDS = 1.0
_ATTENDED_SECONDS = 2.0  # between two looks that count as watching
_ROW_ENDS_AFTER = 20  # answers
_ROW_ENDS_AFTER_SECONDS = 300.0
_MOST_UNREAD = 32  # messages; so many small ones fit into a pipe


class Supervisor:
    """Starts worker processes, brings them messages and their answers back, and starts those anew that are lost.

    A worker first sends READY, then one answer to each message. It is lost when its process ends, which is noticed at
    once by whoever waits in `receive`, and within a second where `due` is asked; and when an answer takes longer than
    the deadline. What it had sent before it was lost is handed out first, then RESTARTED; what is sent to it before
    that is taken for meant for the one that was lost, and is lost too.

    The deadline counts the time in which somebody looks, at least every two seconds: not that of a suspended job.

    Sending never waits: what a worker is not there to read is held back here.

    Args:
        owner: whose settings these are, for messages.
        start: makes worker w, given its number and how often it was lost before.
        num_workers: W.
        deadline_seconds: how long an answer, or a start, may take; larger than 0.
        max_restarts: how many losses of one worker in a row are mended, at least 0. A row ends when a worker has given
            20 answers and lived for five minutes: what always dies after some steps must not go on for ever.

    Attributes:
        restarts: how often each worker was lost.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        owner: str,
        start: Callable[[int, int], WorkerProcess],
        num_workers: int,
        deadline_seconds: float,
        max_restarts: int,
    ):
        check_at_least(f"{owner}.max_restarts", max_restarts, 0)
        if not deadline_seconds > 0:
            raise ValueError(f"{owner}.deadline_seconds is {deadline_seconds}; it must be larger than 0")
        self._owner = owner
        self._start = start
        self._deadline_seconds = deadline_seconds
        self._max_restarts = max_restarts
        self._workers: dict[int, WorkerProcess] = {}
        self._num_workers = num_workers
        self._awaited = [0] * num_workers  # answers, those to the messages in the outbox included
        self._busy_since = [0.0] * num_workers
        self._ready = [False] * num_workers
        self._any_was_ready = False
        self._outbox: list[collections.deque[tuple[Any, ...]]] = [collections.deque() for _ in range(num_workers)]
        self._not_known: set[int] = set()  # those whose RESTARTED is still in the inbox
        self._inbox: collections.deque[tuple[int, tuple[Any, ...]]] = collections.deque()
        self._looked_at = 0.0
        self._losses = [0] * num_workers  # in a row
        self._answers = [0] * num_workers  # since the last loss
        self._born = [0.0] * num_workers
        self.restarts = [0] * num_workers

    @property
    def started(self) -> bool:
        """True between `start` and `close`."""
        return bool(self._workers)

    def start(self) -> None:
        """Starts all workers, without waiting for them."""
        # Before multiprocessing's own, which would wait for workers that wait for messages.
        atexit.register(self.close)
        self._looked_at = time.monotonic()
        for worker in range(self._num_workers):
            self._start_one(worker)

    def _start_one(self, worker: int) -> None:
        self._workers[worker] = self._start(worker, self.restarts[worker])
        self._awaited[worker] = 1
        self._answers[worker] = 0
        self._ready[worker] = False
        self._outbox[worker].clear()
        self._busy_since[worker] = self._born[worker] = time.monotonic()

    def send(self, worker: int, message: tuple[Any, ...]) -> None:
        """Sends a message, which will be answered; without effect if the worker was lost, see RESTARTED."""
        if worker in self._not_known:
            return
        if self._awaited[worker] == 0:
            self._busy_since[worker] = time.monotonic()
        self._awaited[worker] += 1
        self._outbox[worker].append(message)
        self._deliver(worker)

    def _deliver(self, worker: int) -> None:
        outbox = self._outbox[worker]
        while outbox and self._ready[worker] and self._awaited[worker] - len(outbox) < _MOST_UNREAD:
            self._workers[worker].send(outbox.popleft())

    def due(self) -> bool:
        """True if it is a second ago that somebody looked; for those that do other work meanwhile."""
        return self.started and time.monotonic() - self._looked_at >= _POLL_SECONDS

    def receive(self, seconds: float) -> tuple[int, tuple[Any, ...]] | None:
        """The next answer, or RESTARTED, and whose it is.

        Args:
            seconds: how long to wait for one; 0 only looks.

        Returns:
            None if there was none.

        Raises:
            EnvironmentFault: an environment in a worker raised, or returned what it should not.
            ValueError: something else in a worker that a user can mend.
            WorkerRaised: something else raised in a worker.
            WorkerLost: a worker was lost that may not be started again.
        """
        end = time.monotonic() + seconds
        while not self._inbox:
            left = max(0.0, end - time.monotonic())
            self._look(min(left, _POLL_SECONDS))
            if not self._inbox and time.monotonic() >= end:
                return None
        number, message = self._inbox.popleft()
        if message == RESTARTED:
            self._not_known.discard(number)
        return number, message

    def _look(self, seconds: float) -> None:
        waited_for = [worker.pipe for worker in self._workers.values()]
        sentinels = [worker.sentinel for worker in self._workers.values()]
        ready = pipes.wait([*waited_for, *sentinels], seconds)
        now = time.monotonic()
        unattended = max(0.0, now - self._looked_at - _ATTENDED_SECONDS)
        self._busy_since = [min(now, since + unattended) for since in self._busy_since]
        self._looked_at = now
        for number, worker in self._workers.items():
            if worker.pipe in ready:
                self._read(number)
        for number, worker in list(self._workers.items()):
            if worker.has_ended(worker.sentinel in ready):
                worker.process.join()
                self._read(number)
                self._replace(number, worker.how_it_ended())
            elif self._awaited[number] and now - self._busy_since[number] > self._deadline_seconds:
                limit = f"{self._deadline_seconds:g} s, which is {self._owner}.deadline_seconds"
                self._replace(number, f"gave no answer for {limit}: it hangs")

    def _read(self, number: int) -> None:
        for message in self._workers[number].received():
            self._awaited[number] -= 1
            self._busy_since[number] = time.monotonic()
            if message == READY:
                self._ready[number] = self._any_was_ready = True
            else:
                self._answers[number] += 1
                self._inbox.append((number, message))
            self._deliver(number)

    def _replace(self, number: int, why: str) -> None:
        worker = self._workers[number]
        exit_code = worker.process.exitcode
        worker.kill()
        if not self._any_was_ready and exit_code is not None and exit_code >= 0:
            raise WorkerLost(
                f"{worker.name} {why} at its start; what it had to say stands above, on stderr. The usual causes: a "
                "module that it cannot import; code that calls os._exit; a main module without "
                '`if __name__ == "__main__":`'
            )
        # A silence that ended it is no sign of life.
        last_sign = self._busy_since[number] if self._awaited[number] else time.monotonic()
        lived = last_sign - self._born[number]
        if self._answers[number] >= _ROW_ENDS_AFTER and lived >= _ROW_ENDS_AFTER_SECONDS:
            self._losses[number] = 0
        self._losses[number] += 1
        if self._losses[number] > self._max_restarts:
            raise WorkerLost(
                f"{worker.name} {why}; it was lost and started again {self._max_restarts} times before, which is "
                f"{self._owner}.max_restarts: mend the cause, or allow more"
            )
        count = f"{self._losses[number]} of {self._max_restarts} in a row"
        logging.warning("%s %s; it is started again (%s)", worker.name, why, count)
        self.restarts[number] += 1
        self._start_one(number)
        self._not_known.add(number)
        self._inbox.append((number, RESTARTED))

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Ends all workers. May be called twice.

        Args:
            seconds: how long those that are busy may take; then they are killed.
        """
        atexit.unregister(self.close)
        workers, self._workers = list(self._workers.values()), {}
        self._inbox.clear()
        self._not_known.clear()
        for worker in workers:
            worker.send(CLOSE)
        deadline = time.monotonic() + seconds
        for worker in workers:
            if not worker.pipe.closed:
                worker.join(max(0.0, deadline - time.monotonic()))
            worker.kill()
