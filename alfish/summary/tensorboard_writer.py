"""Metrics for TensorBoard."""

import io
import os
import pathlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import record_writer

from alfish.data_structures import Progress
from alfish.summary.appending import append


class TensorBoardWriter:
    """Writes scalars to event files; the step is the number of environment steps.

    A resumed run writes a new event file, which hides what was written after the checkpoint. Every summary is one event
    that is written at once and in this thread: the writer in torch hands events to a thread of its own, which a full
    disk ends for good.

    Args:
        folder: where the event files go; made if needed.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self._folder = pathlib.Path(folder)
        self._file: io.FileIO | None = None
        self._newest_step = -1

    def write(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Writes all values, or none of them.

        Raises:
            OSError: they could not be written.
        """
        if self._file is None:
            self._file = self._begin_file()
        summary = summary_pb2.Summary(
            value=[
                summary_pb2.Summary.Value(tag=name, simple_value=value)
                for name, value in (*values.items(), *timing.items())
            ]
        )
        append(self._file, _record(event_pb2.Event(wall_time=time.time(), step=progress.env_steps, summary=summary)))
        self._newest_step = progress.env_steps

    def close(self) -> None:
        """Closes the event file. A later `write` would begin a new one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """The newest step written; -1 if there is none."""
        return {"newest_step": self._newest_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next `write` hide everything after the step of `state_dict()`."""
        self.close()
        self._newest_step = int(state["newest_step"])

    def _begin_file(self) -> io.FileIO:
        """A new event file. TensorBoard reads them in the order of their names: by time, then by number."""
        self._folder.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in self._folder.glob("events.out.tfevents.*"))
        name = f"events.out.tfevents.{int(time.time()):010d}.{number:05d}.{socket.gethostname()}.{os.getpid()}"
        version = event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
        # By the start of a session TensorBoard knows to forget what it has from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        session = event_pb2.Event(wall_time=time.time(), step=self._newest_step + 1, session_log=start)
        file = io.FileIO(self._folder / name, "x")
        try:
            append(file, _record(version) + _record(session))
        except OSError:
            file.close()
            (self._folder / name).unlink(missing_ok=True)
            raise
        return file


def _record(event: event_pb2.Event) -> bytes:
    buffer = io.BytesIO()
    record_writer.RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()
