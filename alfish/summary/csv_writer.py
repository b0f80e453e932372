"""Metrics as a table with one value per row, the same for every run of the same seed."""

import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

from alfish.data_structures import Progress
from alfish.summary.appending import append

COLUMNS = ("iteration", "env_steps", "updates", "metric", "value")


class CsvWriter:
    """Appends rows `iteration,env_steps,updates,metric,value` to a file.

    The content is a function of the run alone: floats have all their digits, and nothing measured with a clock is
    written. (Only where the rows of evaluations stand depends on their speed, if they run in another process.) Nothing
    is buffered in this process, so a kill loses no finished summary and tears at most the last row; a resumed run cuts
    the file back to its checkpoint first. A file that is there although nothing was resumed is kept beside, as
    `<name>.old`, or `<name>.old-2`, … if that is taken.

    Args:
        path: the file; its folder is made if needed.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = pathlib.Path(path)
        self._file: io.FileIO | None = None
        self._offset_when_closed = 0

    def write(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Appends one row for each value, all or none of them.

        Args:
            progress: the first three columns.
            values: the last two.
            timing: not written.

        Raises:
            OSError: they could not be written. The file is as before.
        """
        del timing
        if self._file is None:
            self._keep_old_file()
            self._file = self._open()
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        if os.fstat(self._file.fileno()).st_size == 0:
            table.writerow(COLUMNS)
        where = (progress.iteration, progress.env_steps, progress.updates)
        for name, value in values.items():
            table.writerow((*where, name, repr(value)))
        append(self._file, text.getvalue().encode())

    def close(self) -> None:
        """Closes the file. A later `write` would begin a new one."""
        if self._file is not None:
            self._offset_when_closed = os.fstat(self._file.fileno()).st_size
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """The length of the file in bytes, after it has reached the disk."""
        if self._file is None:
            return {"offset": self._offset_when_closed}
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            logging.warning("%s may lose its newest rows if the machine stops: %s", self._path, error)
        return {"offset": os.fstat(self._file.fileno()).st_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cuts the file back to where it was: drops rows that a run wrote after its last checkpoint.

        Warns if the file is shorter than it was; the rows in between are lost, and those to come are appended.
        """
        self.close()
        offset = self._offset_when_closed = int(state["offset"])
        self._file = self._open()
        size = os.fstat(self._file.fileno()).st_size
        if size < offset:
            logging.warning(
                "%s has %d bytes, but had %d when the checkpoint was made: rows of the time before it are missing. New "
                "rows are appended; if you have the whole file, stop, put it back and resume.",
                self._path,
                size,
                offset,
            )
        self._file.truncate(self._end_of_row(self._file, min(size, offset)))

    def _open(self) -> io.FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return open(self._path, "a+b", buffering=0)

    def _keep_old_file(self) -> None:
        if self._path.exists() and self._path.stat().st_size:
            old, number = self._path.with_name(f"{self._path.name}.old"), 1
            while old.exists():
                number += 1
                old = self._path.with_name(f"{self._path.name}.old-{number}")
            self._path.rename(old)
            logging.warning("no checkpoint was found, so the run begins anew; the earlier metrics are kept as %s", old)

    @staticmethod
    def _end_of_row(file: io.FileIO, end: int) -> int:
        """The largest offset up to `end` that does not lie inside a row."""
        while end > 0:
            begin = max(0, end - 4096)
            file.seek(begin)
            newline = file.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
        return 0
