"""One child process that answers messages: how it starts, how its errors reach the user, and how it ends."""

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection as pipes
from typing import Any, NamedTuple

from alfish import gin_config
from alfish.algorithms.hook_errors import hook_that_raised
from alfish.environments.faults import MAX_TEXT, MAX_TRACE, EnvironmentFault, without_middle
from alfish.environments.orphans import end_with_the_parent, kill_group, lead_a_group

Pipe = pipes.Connection
"""One end of a pipe between two processes."""

CLOSE = ("close",)
READY = ("ready",)
_RAISED = "raised"

START_METHODS = ("forkserver", "spawn")


class WorkerRaised(RuntimeError):
    """A worker process raised something that is no error of a user; its traceback is a note."""


class WorkerLost(RuntimeError):
    """A worker process was killed or hung, and may not be started again."""


class Raised(NamedTuple):
    """What an exception in a worker process sends to the learner's.

    Attributes:
        tag: tells it from other messages.
        kind: "environment" for an EnvironmentFault, "user" for another ValueError or a missing file or package, else
            the name of its type.
        text: its message.
        trace: its traceback, with those of its causes.
    """

    tag: str
    kind: str
    text: str
    trace: str


class WorkerProcess:
    """A child process: `main(pipe, *arguments)` runs in it until it returns.

    It ignores Ctrl-C and SIGTERM, which the learner answers for all, and ends with the learner, however that ends.
    Processes that it starts itself, and that do not leave its group, end with it.

    Args:
        name: for messages.
        main: a function of a module; answers the messages of `messages(pipe)`.
        arguments: what can be pickled; tensors in shared memory are shared.
        start_method: "forkserver" or "spawn"; None takes the first that there is.

    Attributes:
        name: as given.
        pipe: the learner's end.
        process: the process.
        sentinel: is ready when the process has ended.

    Raises:
        ValueError: the arguments cannot be pickled.
    """

    def __init__(
        self, name: str, main: Callable[..., None], arguments: tuple[Any, ...], start_method: str | None = None
    ):
        self.name = name
        context: Any = multiprocessing.get_context(start_method or _start_methods()[0])
        if context.get_start_method() == "forkserver":
            # The server, which runs no threads, imports these once, and the workers that it forks need not. It has
            # effect before the first worker of the program only. Modules of others might start threads.
            loaded = [module for module in sys.modules if module.startswith("alfish.")]
            context.set_forkserver_preload([main.__module__, *loaded])
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_run, args=(there, main, arguments), name=name)
        try:
            self.process.start()
        except (OSError, RuntimeError):
            raise
        except Exception as error:  # of whatever kind pickling raises
            raise ValueError(
                f"{name} cannot be told what to build ({error}); give a function or class of a module, nothing that is "
                "defined inside a function"
            ) from error
        there.close()
        # multiprocessing's own sentinel is a pipe: what the process forks holds it open, too, and it is closed when the
        # server dies that forked the process. Only Linux has a better one.
        self._pidfd = _open_pidfd(self.process.pid)
        self.sentinel = self.process.sentinel if self._pidfd is None else self._pidfd

    def send(self, message: tuple[Any, ...]) -> None:
        """Sends a message; one to a process that is dead is lost with it."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def received(self) -> Iterator[tuple[Any, ...]]:
        """The messages that have come, without waiting.

        Raises:
            EnvironmentFault: an environment in the process raised, or returned what it should not.
            ValueError: something else there that a user can mend.
            WorkerRaised: something else raised there.
        """
        with contextlib.suppress(OSError, EOFError):  # it is dead: its sentinel tells
            while self.pipe.poll():
                message = self.pipe.recv()
                if message[0] == _RAISED:
                    raise _error(self.name, Raised(*message))
                yield message

    def has_ended(self, sentinel_ready: bool) -> bool:
        """Whether the process has ended.

        Args:
            sentinel_ready: whether `sentinel` was just found ready.
        """
        return sentinel_ready or (self._pidfd is None and self.process.exitcode is not None)

    def join(self, seconds: float) -> None:
        """Waits until it has ended, but not longer than that."""
        pipes.wait([self.sentinel], seconds)

    def kill(self) -> None:
        """Ends it and what it has started at once. May be called twice."""
        if self.pipe.closed:
            return
        self.pipe.close()
        kill_group(self.process.ident)
        if self._pidfd is None:
            self.process.kill()  # SIGTERM would be ignored
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            pipes.wait([self._pidfd])
            os.close(self._pidfd)
        self.process.join()

    def how_it_ended(self) -> str:
        """What its exit code says, for messages."""
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        reason = "; perhaps the machine ran out of memory" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{reason}"


def check_start_method(owner: str, start_method: str | None) -> None:
    """Checks a setting.

    Args:
        owner: the class that has it, for the message.
        start_method: "forkserver" or "spawn", or None.

    Raises:
        ValueError: it is not known, or not there on this system. "fork" copies a process without its threads, which
            hangs where they held a lock, and a GPU cannot be used in the copy.
    """
    here = _start_methods()
    if start_method is not None and start_method not in here:
        raise ValueError(
            f"{owner}.start_method is {start_method!r}; expected one of {here} (fork copies a process without its "
            "threads and can hang)"
        )


def _start_methods() -> list[str]:
    return [name for name in START_METHODS if name in multiprocessing.get_all_start_methods()]


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def messages(pipe: Pipe) -> Iterator[tuple[Any, ...]]:
    """In a worker: the messages as they come, until it shall end or the learner is gone."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return
        if message == CLOSE:
            return
        yield message


def _run(pipe: Pipe, main: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    lead_a_group()
    end_with_the_parent()
    try:
        main(pipe, *arguments)
    except BaseException as error:  # also an exit: who called it must not be guessed
        with contextlib.suppress(OSError):
            pipe.send(tuple(_raised(error)))
    # The exit would wait for threads of libraries; and there is nothing left to flush but these.
    sys.stdout.flush()
    sys.stderr.flush()


def _raised(error: BaseException) -> Raised:
    readable = gin_config.translate_error(error)
    kind = type(readable).__name__
    if isinstance(readable, EnvironmentFault):
        kind = "environment"
    elif isinstance(readable, ValueError | ImportError | OSError):
        kind = "user"
    trace = without_middle("".join(traceback.format_exception(error)), MAX_TRACE)
    # That of an environment may quote its traceback.
    text = without_middle(str(readable), MAX_TRACE if kind == "environment" else MAX_TEXT)
    hook = hook_that_raised(readable)
    return Raised(_RAISED, kind, f"{hook}: {text}" if hook else text, trace)


def _error(name: str, raised: Raised) -> Exception:
    text = f"{name}: {raised.text}"
    error: Exception
    if raised.kind == "environment":
        error = EnvironmentFault(text)
    elif raised.kind == "user":
        error = ValueError(text)
    else:
        error = WorkerRaised(f"{name} raised {raised.kind}: {raised.text}")
    error.add_note(f"In the process of {name}:\n{raised.trace.rstrip()}")
    return error
