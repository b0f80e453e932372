"""Appending to a file so that a full disk leaves no half of anything."""

import contextlib
import io
import os


def append(file: io.FileIO, data: bytes) -> None:
    """Appends all of `data` to an unbuffered file, or nothing.

    Raises:
        OSError: it could not be written; the file is as long as before.
    """
    size = os.fstat(file.fileno()).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(size)
            file.seek(size)
        raise
