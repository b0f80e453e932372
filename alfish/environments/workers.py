"""The worker processes of a `gymnasium.vector.AsyncVectorEnv`.

Calls have a deadline, a death is noticed, and none is left behind.
"""

import contextlib
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
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


class QuietAsyncVectorEnv(AsyncVectorEnv):
    """An AsyncVectorEnv that raises a worker's error as it is.

    Gymnasium's own warns of every traceback several times over, which buries the line that says what happened, and
    raises the error of whichever worker was last.
    """

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        failures = list(successes).count(False)
        found = sorted(
            (self.error_queue.get(timeout=_CLOSE_SECONDS) for _ in range(failures)), key=lambda item: item[0]
        )
        for index, *_ in found:
            self.parent_pipes[index].close()
        if found:
            _, kind, error, trace = found[0]
            raise error if isinstance(error, EnvironmentFault) else kind(f"{trace}\n{error}")


def reset(env: gymnasium.vector.VectorEnv, seed: Any) -> Any:
    """`env.reset(seed=seed)`; the seed is a number, or one for each environment.

    Raises:
        LostWorkerError: a worker died or hung.
    """
    if not isinstance(env, AsyncVectorEnv):
        return env.reset(seed=seed)
    try:
        env.reset_async(seed=seed)
        return env.reset_wait(timeout=DEADLINE_SECONDS)
    except (EOFError, OSError, multiprocessing.TimeoutError) as error:
        raise _lost(env, "reset") from error


def step(env: gymnasium.vector.VectorEnv, actions: Any) -> Any:
    """`env.step(actions)`.

    Raises:
        LostWorkerError: a worker died or hung.
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
