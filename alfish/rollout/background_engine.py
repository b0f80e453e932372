"""Collects in one process of its own while the learner trains."""

import gin

from alfish.rollout.engine import EngineContext
from alfish.rollout.turns import Turns
from alfish.rollout.worker_engine import WorkerEngine


@gin.configurable
class BackgroundEngine(WorkerEngine):
    """One worker process with all B environments.

    Timeline with `max_staleness=1`: window k is collected while the learner trains on window k - 1, with the weights
    that it had after window k - 2 (`w2`: those after two iterations)::

        learner   wait ──────── train on 0 ─ wait ─ train on 1 ─ wait ─ train on 2
        worker    window 0, w0 │ window 1, w0 ────│ window 2, w1 ─────│ window 3, w2

    Three windows lie in shared memory. The learner owns the one that it was handed until it asks for the next; the
    worker owns the one that it fills; the third, which the worker filled before, is kept until the next one is
    finished. With `max_staleness=0` the worker waits for the learner and the learner for the worker: the same rows as
    SameProcessEngine collects, from another process, in two windows of memory::

        learner   wait ──────── train on 0           wait ──────── train on 1
        worker    window 0, w0 ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ window 1, w1 ┄┄┄┄┄┄┄┄┄┄┄┄

    What a resumed run needs is in the checkpoint, the windows that were collected ahead included.

    Args:
        context: see EngineContext.
        max_staleness: iterations between the weights that a window is collected with and the newest, at least 0; 1 lets
            collecting overlap with training.
        worker_device: where the worker acts: "cpu", or "cuda:1" and the like.
        start_method: "forkserver" or "spawn"; None takes the first that the system has.
        deadline_seconds: a window, or a start, that takes longer is a hang; larger than 0.
        max_restarts: how often a worker that was killed or hangs is replaced in a row, at least 0; see Supervisor.
        pin_memory: keeps the windows in pinned host memory, for faster copies to a GPU.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        context: EngineContext,
        max_staleness: int = gin.REQUIRED,
        worker_device: str = "cpu",
        start_method: str | None = None,
        deadline_seconds: float = 600.0,
        max_restarts: int = 5,
        pin_memory: bool = False,
    ):
        turns = Turns(num_workers=1, workers_per_batch=1, max_staleness=max_staleness)
        options = worker_device, start_method, deadline_seconds, max_restarts, pin_memory
        super().__init__(context, "BackgroundEngine", turns, *options)
