"""Collects in many processes, each with some of the environments."""

import gin

from alfish.rollout.engine import EngineContext
from alfish.rollout.turns import Turns
from alfish.rollout.worker_engine import WorkerEngine


@gin.configurable
class MultiProcessEngine(WorkerEngine):
    """W worker processes with E = B / W environments each, which fill their columns of shared windows.

    Timeline of two workers with `max_staleness=1` (`w2`: the weights after two iterations); a worker that is done early
    begins the next window, if that is ordered already, and waits otherwise::

        learner   wait ───────── train on 0 ─ wait ─ train on 1 ─ wait ─ train on 2
        worker 0  window 0, w0 │ window 1, w0 ─────│ window 2, w1 ─────│ window 3, w2
        worker 1  window 0, w0 ───│ window 1, w0 ──┄┄│ window 2, w1 ───┄│ window 3, w2

    A window lies in shared memory and its columns are written by their workers: nothing is put together or copied. The
    learner owns the one that it was handed until it asks for the next; a worker owns its columns of the ones ordered.
    There are `max_staleness + 2` windows: a worker's last finished one is kept until the next is finished.

    With `workers_per_batch=1`, groups of one worker take turns, so that the learner need not wait for the slowest: its
    batches are windows of B / W environments each. All are busy when `max_staleness` is at least the number of groups
    less 1, one more if they shall be busy while the learner trains::

        learner   wait ────────── 0 ─┄─ 1 ─┄─ 2 ─┄─ 3            max_staleness=2
        worker 0  window 0, w0 ──│ window 2, w0 ───│ window 4, w2
        worker 1  window 1, w0 ────────│ window 3, w1 ───│ window 5, w3

    What is collected follows from the settings and the seed, never from who is fast. W workers with `max_staleness=0`
    collect what W engines in the same process would, side by side.

    Args:
        context: see EngineContext.
        num_workers: W, which divides B.
        max_staleness: iterations between the weights that a window is collected with and the newest, at least 0; 1 lets
            collecting overlap with training.
        workers_per_batch: how many workers fill a window together; divides W. None for all of them.
        worker_device: where the workers act: "cpu", or "cuda:1" and the like.
        start_method: "forkserver" or "spawn"; None takes the first that the system has.
        deadline_seconds: a worker's part of a window, or its start, that takes longer is a hang; larger than 0.
        max_restarts: how often one worker that was killed or hangs is replaced in a row, at least 0; see Supervisor.
        pin_memory: keeps the windows in pinned host memory, for faster copies to a GPU.

    Raises:
        ValueError: a setting is out of range, or W does not divide B.
    """

    def __init__(
        self,
        context: EngineContext,
        num_workers: int = gin.REQUIRED,
        max_staleness: int = gin.REQUIRED,
        workers_per_batch: int | None = None,
        worker_device: str = "cpu",
        start_method: str | None = None,
        deadline_seconds: float = 600.0,
        max_restarts: int = 5,
        pin_memory: bool = False,
    ):
        together = num_workers if workers_per_batch is None else workers_per_batch
        turns = Turns(num_workers=num_workers, workers_per_batch=together, max_staleness=max_staleness)
        options = worker_device, start_method, deadline_seconds, max_restarts, pin_memory
        super().__init__(context, "MultiProcessEngine", turns, *options)
