"""The worker processes of a `gymnasium.vector.AsyncVectorEnv`.

Calls have a deadline, a death is noticed, and none is left behind.
"""

import contextlib
import multiprocessing
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from absl import logging
from gymnasium.vector import AsyncVectorEnv

from alfish.environments.faults import EnvironmentFault

# A step that takes longer than this has hung.
DEADLINE_SECONDS = 600.0
_CLOSE_SECONDS = 5.0


class LostWorkerError(RuntimeError):
    """A worker process died or hung.

    Attributes:
        index: of its environment; None if unknown.
    """

    def __init__(self, message: str, index: int | None):
        super().__init__(message)
        self.index = index


class WorkerError(RuntimeError):
    """A worker process failed outside of its environment, as when it cannot pickle an info; its traceback is a note.

    Attributes:
        index: of its environment.
    """

    def __init__(self, message: str, index: int, trace: str):
        super().__init__(message)
        self.index = index
        self.add_note(trace)


class QuietAsyncVectorEnv(AsyncVectorEnv):
    """An AsyncVectorEnv that raises the first worker's error: an EnvironmentFault as it is, any other as a WorkerError.

    Gymnasium's own warns of every traceback several times over, which buries the line that says what happened, and
    raises the error of whichever worker was last, by a constructor that may want other arguments.
    """

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        failed = [index for index, success in enumerate(successes) if not success]
        if not failed:
            return
        for index in failed:
            self.parent_pipes[index].close()
        found = sorted(self._errors(len(failed)), key=lambda item: item[0])
        if not found:
            raise LostWorkerError("its worker process failed, and its error could not be sent here", failed[0])
        index, kind, error, trace = found[0]
        raise error if isinstance(error, EnvironmentFault) else WorkerError(f"{kind.__name__}: {error}", index, trace)

    def _errors(self, count: int) -> Iterator[tuple[int, type[BaseException], BaseException, str]]:
        for _ in range(count):
            try:
                yield self.error_queue.get(timeout=_CLOSE_SECONDS)
            except queue.Empty:
                return  # one that the worker could not pickle
            except Exception as error:
                logging.warning("an error of a worker process cannot be unpickled here: %r", error)


def reset(env: gymnasium.vector.VectorEnv, seed: Any, which: np.ndarray | None = None) -> Any:
    """`env.reset(seed=seed)`.

    Args:
        env: the environments.
        seed: a number, or one for each environment; None goes on with the random numbers of each.
        which: `[B]` bool, where an episode begins; None for everywhere.

    Raises:
        LostWorkerError: a worker died or hung.
        WorkerError: a worker failed outside of its environment.
    """
    options = None if which is None else {"reset_mask": which}
    if not isinstance(env, AsyncVectorEnv):
        return env.reset(seed=seed, options=options)
    try:
        env.reset_async(seed=seed, options=options)
        return env.reset_wait(timeout=DEADLINE_SECONDS)
    except (EOFError, OSError, multiprocessing.TimeoutError) as error:
        raise _lost(env, "reset") from error


def step(env: gymnasium.vector.VectorEnv, actions: Any) -> Any:
    """`env.step(actions)`.

    Raises:
        LostWorkerError: a worker died or hung.
        WorkerError: a worker failed outside of its environment.
    """
    if not isinstance(env, AsyncVectorEnv):
        return env.step(actions)
    try:
        env.step_async(actions)
        return env.step_wait(timeout=DEADLINE_SECONDS)
    except (EOFError, OSError, multiprocessing.TimeoutError) as error:
        raise _lost(env, "step") from error


def _lost(env: AsyncVectorEnv, what: str) -> LostWorkerError:
    for process in env.processes:
        process.join(0.1)
    for index, process in enumerate(env.processes):
        if process.exitcode is not None:
            return LostWorkerError(f"its worker process died during {what}, exit code {process.exitcode}", index)
    return LostWorkerError(f"{what} took longer than {DEADLINE_SECONDS:g} s in a worker process: it hangs", None)


def start(makers: Sequence[Any]) -> AsyncVectorEnv:
    """Starts a worker process for each maker.

    They are spawned, not forked: a fork of a process that runs torch's threads can hang. So the program's main module
    is imported anew in each, and must guard its own start with `if __name__ == "__main__":`.

    Args:
        makers: what makes one environment each, pickled by cloudpickle.

    Raises:
        EnvironmentFault: a worker process died at its start.
    """
    try:
        return QuietAsyncVectorEnv(makers, shared_memory=True, copy=False, context="spawn")
    except (EOFError, OSError) as error:
        raise EnvironmentFault(
            "a worker process died before its environment was ready; its own traceback stands above, on stderr. The "
            'usual causes: a module that it cannot import; a main module without `if __name__ == "__main__":`'
        ) from error


def close(env: gymnasium.vector.VectorEnv) -> None:
    """Closes a vector environment; ends its worker processes, even those that hang or have died."""
    if not isinstance(env, AsyncVectorEnv):
        env.close()
        return
    # AsyncVectorEnv.close waits for answers, without end if a worker hangs, and fails if one has died.
    env.closed = True
    for pipe in env.parent_pipes:
        if pipe is not None and not pipe.closed:
            with contextlib.suppress(OSError):  # it is dead already; joined below
                pipe.send(("close", None))
    deadline = time.monotonic() + _CLOSE_SECONDS
    for process in env.processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()  # terminate would be ignored, see EnvironmentMaker
            process.join()
    for pipe in env.parent_pipes:
        if pipe is not None:
            pipe.close()
    env.error_queue.close()
