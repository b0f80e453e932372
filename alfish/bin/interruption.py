"""Ctrl-C and SIGTERM: the first one stops a run cleanly, the second one leaves at once."""

import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether a signal has come.

    Attributes:
        signal_number: of the first one; None before.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None


@contextlib.contextmanager
def stopping(request_stop: Callable[[], None]) -> Iterator[Interruption]:
    """Calls `request_stop` at the first signal inside; the second one has its default effect, which waits for nothing.

    Args:
        request_stop: called in the signal's handler.
    """
    interruption = Interruption()

    def stop(number: int, frame: Any) -> None:
        interruption.signal_number = number
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{signal.Signals(number).name}: saving, then stopping; once more leaves at once\n".encode())
        request_stop()

    before = [signal.signal(number, stop) for number in SIGNALS]
    try:
        yield interruption
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


def command(module: str, **flags: str) -> str:
    """A command line that runs a module of alfish with this Python, as one types it in a shell."""
    found = shutil.which("python")
    here = found is not None and os.path.abspath(found) == os.path.abspath(sys.executable)
    parts = ["python" if here else sys.executable, "-m", f"alfish.bin.{module}"]
    return shlex.join([*parts, *(f"--{name}={value}" for name, value in flags.items())])
