"""How a command runs: exit codes, and errors that end with one clear line."""

import logging
import sys
import traceback
from collections.abc import Callable, Sequence

from alfish import gin_config
from alfish.algorithms.hook_errors import hook_that_raised
from alfish.environments.faults import EnvironmentFault
from alfish.rollout.worker_process import WorkerLost
from alfish.summary.console_writer import CLEAR_LINE

DONE, FAILED, INTERRUPTED = 0, 1, 130
"""Exit codes. A run that a signal stopped ends with 128 + the signal's number, as shells do: 130 for Ctrl-C."""

_USER_ERRORS = (ValueError, ImportError, OSError, WorkerLost)


def run(main: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; an error becomes one last line on standard error.

    What a user can mend (a ValueError, a missing file or package, a worker process that is lost) is shown without its
    traceback. Of an environment or a user's hook that raised, its own traceback is shown.

    Args:
        main: gets the arguments.
        arguments: those of the command line if None.
    """
    given = sys.argv[1:] if arguments is None else arguments
    logging.addLevelName(logging.WARNING, "warning")
    # On a terminal the line of progress may stand where the record goes.
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    logging.basicConfig(format=f"{clear}%(levelname)s: %(message)s")
    try:
        with gin_config.errors_readable():
            return main(given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        expected = isinstance(error, _USER_ERRORS)
        hook = hook_that_raised(error)
        if not expected or hook or "--traceback" in given:
            traceback.print_exception(error)
        elif isinstance(error, EnvironmentFault) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        elif isinstance(error.__cause__, Exception):
            print("--traceback shows where this was raised", file=sys.stderr)
        print(_described(error, with_type=bool(hook) or not expected, raised_by=hook), file=sys.stderr)
        return FAILED


def _described(error: Exception, with_type: bool, raised_by: str) -> str:
    """Notes and tables first; the last line is the message's first and last."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # Of a message that quotes a worker's traceback, the last line says what happened.
    first = [] if lines[0].startswith("Traceback") else [lines.pop(0)]
    last = [lines.pop()] if lines else []
    kind = [f"{type(error).__name__}:"] if with_type else []
    where = [f"{raised_by} raised"] if raised_by else []
    return "\n".join([*getattr(error, "__notes__", []), *lines, " ".join(["error:", *where, *kind, *first, *last])])
