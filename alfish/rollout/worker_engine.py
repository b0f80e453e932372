"""What the engines with worker processes have in common."""

import collections
from collections.abc import Mapping
from typing import Any

import torch

from alfish import nest
from alfish.data_structures import Progress
from alfish.rollout import acting_worker
from alfish.rollout.acting_worker import Assignment, Order
from alfish.rollout.engine import Collected, EngineContext
from alfish.rollout.shared_windows import SharedWindows
from alfish.rollout.supervisor import RESTARTED, Supervisor
from alfish.rollout.turns import Turns
from alfish.rollout.weights_snapshot import WeightsSnapshot
from alfish.rollout.worker_engine_checks import check_engine_state, check_settings
from alfish.rollout.worker_process import WorkerProcess, check_start_method

_WAIT_SECONDS = 1.0


class WorkerEngine:
    """Windows that worker processes collect ahead, a fixed number of them: results do not depend on who is fast.

    Window k is collected with the weights as they were after iteration k - 1 - `max_staleness` (those of the start, if
    there was none), however fast anyone is; BackgroundEngine and MultiProcessEngine draw the timelines.

    A worker that raises ends the run with its own traceback. One that is killed, or hangs past the deadline, is
    replaced: its unfinished window is collected anew by its successor, whose first row is the last one that was handed
    over, made LAST as a checkpoint's cut would have made it. So no row is torn, doubled or lost from the middle of an
    episode; the rows themselves are others than without the loss.

    Args:
        context: see EngineContext.
        owner: the class, for messages.
        turns: see Turns.
        worker_device: where workers act.
        start_method: see WorkerProcess.
        deadline_seconds: see Supervisor.
        max_restarts: see Supervisor.
        pin_memory: keeps the windows in pinned memory.

    Raises:
        ValueError: a setting is out of range, or they do not go together.
    """

    owns_environments = True

    def __init__(
        self,
        context: EngineContext,
        owner: str,
        turns: Turns,
        worker_device: str,
        start_method: str | None,
        deadline_seconds: float,
        max_restarts: int,
        pin_memory: bool,
    ):
        check_settings(context, owner, turns, worker_device, pin_memory)
        check_start_method(owner, start_method)
        self._context = context
        self._owner = owner
        self._turns = turns
        self._worker_device = worker_device
        self._start_method = start_method
        self._envs_of_worker = context.num_envs // turns.num_workers
        self.window_envs = self._envs_of_worker * turns.workers_per_batch
        past_rows = context.transform.past_rows
        sizes = context.window_length, self.window_envs, past_rows, turns.num_slots
        self._pool = SharedWindows(context.stored_specs, *sizes)
        if pin_memory:
            self._pool.pin()
        self._pinned = pin_memory
        self._weights = WeightsSnapshot(context.algorithm, turns.max_staleness + 1)
        self._supervisor = Supervisor(owner, self._start_worker, turns.num_workers, deadline_seconds, max_restarts)
        self._begin(0, [None] * turns.num_workers)

    def _begin(self, window: int, states: list[bytes | None]) -> None:
        """Sets out from a window that nobody has collected yet, with the workers' states of a checkpoint."""
        num_workers = self._turns.num_workers
        self._next = self._num_ordered = window
        self._restored = states
        self._orders: list[collections.deque[Order]] = [collections.deque() for _ in range(num_workers)]
        self._missing: dict[int, int] = {}
        self._updates: dict[int, int] = {}
        self._last_slot: list[int | None] = [None] * num_workers
        self._asked: dict[int, tuple[Any, ...]] = {}
        self._answers: dict[int, tuple[Any, ...]] = {}
        self._version = -1
        self._published: list[int] | None = None

    def _start_worker(self, worker: int, restarts: int) -> WorkerProcess:
        turns, first = self._turns, worker * self._envs_of_worker
        assignment = Assignment(
            make_experiment=self._context.make_experiment,
            device=self._worker_device,
            unit=worker,
            restarts=restarts,
            streams=self._context.streams,
            num_envs=self._envs_of_worker,
            first_env=first,
            envs_of_run=self._context.num_envs,
            first_column=first % self.window_envs,
            window_envs=self.window_envs,
            window_length=self._context.window_length,
            num_windows=turns.num_slots,
            windows=self._pool.block,
            num_weights=turns.max_staleness + 1,
            weights=self._weights.block,
        )
        last = first + self._envs_of_worker - 1
        name = f"worker {worker} (environments {first}…{last} of 0…{self._context.num_envs - 1})"
        return WorkerProcess(name, acting_worker.work, (assignment,), self._start_method)

    def collect(self, progress: Mapping[str, Progress]) -> Collected:
        """See Engine."""
        timers, window = self._context.timers, self._next
        with timers.phase("wait"):
            self._start()
        if self._pinned:
            # The copies to the GPU of a window that is written again from now on.
            torch.cuda.current_stream(self._context.device).synchronize()
        with timers.phase("weights"):
            self._publish(progress)
        self._order(window + self._turns.max_staleness, progress)
        with timers.phase("wait"):
            while self._missing[window]:
                self._handle_next()
                self._context.poll_others()
        self._next += 1
        del self._missing[window]
        staleness = progress[""].updates - self._updates.pop(window)
        experience = self._pool.windows[self._turns.slot(window)]
        return Collected(experience, self._turns.group(window) * self.window_envs, staleness)

    def _start(self) -> None:
        if self._supervisor.started:
            return
        self._supervisor.start()
        for worker, state in enumerate(self._restored):
            if state is not None:
                self._supervisor.send(worker, (acting_worker.LOAD, state, True))

    def _publish(self, progress: Mapping[str, Progress]) -> None:
        """Makes the weights known, if they have been trained since."""
        updates = [each.updates for each in progress.values()]
        if updates != self._published:
            self._version += 1
            self._weights.write(self._weights_slot)
            self._published = updates

    @property
    def _weights_slot(self) -> int:
        # Of the windows that are ordered and not finished, each may need weights of its own.
        return self._version % (self._turns.max_staleness + 1)

    def _order(self, last: int, progress: Mapping[str, Progress]) -> None:
        """Orders the windows up to `last` that have not been ordered yet."""
        for window in range(self._num_ordered, last + 1):
            order = Order(window, self._turns.slot(window), self._version, self._weights_slot, dict(progress))
            self._updates[window] = progress[""].updates
            self._missing[window] = self._turns.workers_per_batch
            for worker in self._turns.workers(window):
                self._orders[worker].append(order)
                self._supervisor.send(worker, (acting_worker.COLLECT, *order))
            self._num_ordered = window + 1

    def _handle_next(self, seconds: float = _WAIT_SECONDS) -> bool:
        """Takes notice of the next message, if one comes."""
        received = self._supervisor.receive(seconds)
        if received is None:
            return False
        worker, message = received
        if message == RESTARTED:
            self._bring_back(worker)
        elif message[0] == acting_worker.COLLECTED:
            order = self._orders[worker].popleft()
            assert order.window == message[1], (order, message)
            self._last_slot[worker] = order.slot
            self._missing[order.window] -= 1
        elif worker in self._asked and self._asked[worker][0] == message[0]:
            del self._asked[worker]
            self._answers[worker] = message[1:]
        return True

    def _bring_back(self, worker: int) -> None:
        """Tells a worker that replaces a lost one where to go on, and gives it what the other one left."""
        slot, state = self._last_slot[worker], self._restored[worker]
        if slot is not None:
            self._supervisor.send(worker, (acting_worker.GO_ON, slot))
        elif state is not None:
            self._supervisor.send(worker, (acting_worker.LOAD, state, False))
        for order in self._orders[worker]:
            self._supervisor.send(worker, (acting_worker.COLLECT, *order))
        if worker in self._asked:
            self._supervisor.send(worker, self._asked[worker])

    def _ask(self, message: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """The answers of all workers."""
        self._answers = {}
        self._asked = dict.fromkeys(range(self._turns.num_workers), message)
        for worker in self._asked:
            self._supervisor.send(worker, message)
        while self._asked:
            self._handle_next()
        return [self._answers[worker] for worker in range(self._turns.num_workers)]

    def poll(self) -> None:
        """See Engine. A worker that was lost is replaced while the learner trains."""
        if self._supervisor.due():
            while self._handle_next(0.0):
                pass

    def metrics(self) -> dict[str, float]:
        """See Engine."""
        return {"restarts": float(sum(self._supervisor.restarts))}

    def cut(self) -> None:
        """See Engine. The episodes close where the last window that is collected ahead ends."""
        if self._supervisor.started:
            while any(self._missing.values()):
                self._handle_next()
            self._ask((acting_worker.CUT,))

    def state_dict(self) -> dict[str, Any]:
        """See Engine."""
        self._start()
        ahead = [
            {
                "updates": self._updates[window],
                "leaves": [leaf.clone() for leaf in nest.leaves(self._pool.windows[self._turns.slot(window)])],
            }
            for window in range(self._next, self._num_ordered)
        ]
        workers = [acting_worker.from_bytes(state) for (state,) in self._ask((acting_worker.STATE,))]
        restarts = list(self._supervisor.restarts)
        return {"turns": self._sizes(), "next": self._next, "ahead": ahead, "workers": workers, "restarts": restarts}

    def _sizes(self) -> dict[str, int]:
        sizes = {f"{self._owner}.{name}": value for name, value in self._turns._asdict().items()}
        return sizes | {"Trainer.num_envs": self._context.num_envs}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine."""
        check_engine_state(state, self._sizes(), self._context, self._envs_of_worker, self._pool.windows[0])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine."""
        self._supervisor.close()
        self._begin(int(state["next"]), [acting_worker.to_bytes(worker) for worker in state["workers"]])
        self._supervisor.restarts[:] = [int(count) for count in state["restarts"]]
        for window, ahead in enumerate(state["ahead"], start=self._next):
            leaves = nest.leaves(self._pool.windows[self._turns.slot(window)])
            for leaf, saved in zip(leaves, ahead["leaves"], strict=True):
                leaf.copy_(saved)
            self._updates[window] = int(ahead["updates"])
            self._missing[window] = 0
            self._num_ordered = window + 1

    def close(self) -> None:
        """See Engine."""
        self._supervisor.close()
        self._pool.close()
