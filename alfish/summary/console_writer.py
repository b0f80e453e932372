"""Progress for the eyes: one line that is rewritten on a terminal, plain lines elsewhere."""

import datetime
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from alfish.checks import check_at_least
from alfish.data_structures import Progress

CLEAR_LINE = "\r\x1b[K"
"""What a terminal takes to wipe the line that it is in."""
TIME_PREFIX = "time/"
RATE = "time/env_steps_per_second"
SMALLEST_SHARE = 0.01
"""Phases below this fraction of the time are not shown."""


class ConsoleWriter:
    """Prints how far the run is, how fast, how long still, the episode return, the loss and where the time goes.

    Args:
        total_env_steps: environment steps of the whole run.
        stream: where to print; standard error if None. It is not closed.

    Raises:
        ValueError: `total_env_steps` is not positive.
    """

    def __init__(self, total_env_steps: int, stream: TextIO | None = None):
        check_at_least("ConsoleWriter.total_env_steps", total_env_steps, 1)
        self._total = total_env_steps
        self._stream = sys.stderr if stream is None else stream
        self._rewrites = self._stream.isatty()
        self._line_stands = False

    def write(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Prints one line. On a terminal the next one takes its place, but not that of an evaluation's result."""
        line = "  ".join(self._parts(progress, values, timing))
        if not self._rewrites:
            self._stream.write(line + "\n")
        elif "evaluation/return" in values:
            self._stream.write(f"{CLEAR_LINE}{line}\n")
            self._line_stands = False
        else:
            # The cursor is left at the start of the line: whatever is printed next is not appended to it. A log
            # record should begin with CLEAR_LINE, or it leaves the rest of the line standing.
            self._stream.write(f"{CLEAR_LINE}{line[: self._columns() - 1]}\r")
            self._line_stands = True
        self._stream.flush()

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._line_stands:
            self._stream.write("\n")
            self._stream.flush()
            self._line_stands = False

    def _parts(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> list[str]:
        parts = [
            f"{100 * progress.env_steps / self._total:5.1f} %",
            f"{progress.env_steps:,} of {self._total:,} env steps",
        ]
        rate = timing.get(RATE, 0.0)
        if rate > 0:
            left = max(self._total - progress.env_steps, 0)
            parts += [f"{rate:,.0f}/s", f"{datetime.timedelta(seconds=round(left / rate))} left"]
        if "evaluation/return" in values:
            parts.append(f"evaluation: return {values['evaluation/return']:.4g}")
        if "episode/return_mean" in values:
            parts.append(f"return {values['episode/return_mean']:.4g}")
        if "loss" in values:
            parts.append(f"loss {values['loss']:.4g}")
        shares = {name: share for name, share in timing.items() if name.startswith(TIME_PREFIX) and name != RATE}
        shown = [
            f"{name.removeprefix(TIME_PREFIX)} {share:.0%}" for name, share in shares.items() if share >= SMALLEST_SHARE
        ]
        return [*parts, " ".join(shown)] if shown else parts

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            return 80
