"""Where the rows of a ring lie: in memory, or in files that are mapped into it.

A storage holds arrays and knows nothing of what is in them. The files hold no state of a run: that is in its
checkpoints, which contain the rows wherever they are stored.
"""

import contextlib
import fcntl
import itertools
import json
import math
import mmap
import os
import pathlib
import tempfile
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import gin
import numpy as np
import torch

from alfish.specs import TensorSpec

# All copies are numpy's, and of one thread: a copy by torch waits for its slowest thread, and where other processes
# keep the cores busy that costs a time slice each (on 2 cores, one of them busy: 16 ms instead of 1 ms for a batch).
# numpy also asks for huge pages, which makes filling fresh memory several times faster. It lacks some of torch's
# dtypes, so it sees every dtype as one of the same size that it has.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}

_VERSION = 1
_HEADER, _LOCK = "storage.json", ".lock"
_LARGEST_HEADER = 1 << 24  # bytes
_STEP_BYTES = 1 << 16
"""So much of a file is taken at once for the rows of one environment: fewer calls than one for each window."""

NamedSpec = tuple[str, TensorSpec]


def words_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's memory as an array of a dtype that numpy has; the same shape."""
    return tensor.detach().view(_WORDS[tensor.dtype.itemsize]).numpy()


def spec_line(named_spec: NamedSpec) -> str:
    """One leaf in words, to be compared and shown."""
    path, spec = named_spec
    return f"{path}: {spec.dtype} {tuple(spec.shape)}"


class Disk(NamedTuple):
    """A disk that rows may lie on.

    Attributes:
        number: of the disk, the same for all folders on it.
        available: bytes that rows may take there.
    """

    number: int
    available: int


class Storage(Protocol):
    """Provides the arrays of one ring.

    Attributes:
        on_disk: True if the rows take disk space, False if they take memory.
    """

    on_disk: bool

    def disk(self) -> Disk | None:
        """Where the rows lie and what they may take there; None if that is not on a disk.

        Raises:
            ValueError: nothing can be written there; says why and what to do.
        """

    def allocate(self, named_specs: Sequence[NamedSpec], num_envs: int, length: int) -> list[np.ndarray]:
        """The arrays `[B, L, ...]` of all leaves, of dtypes as by `words_of`. Called once.

        Space is taken only as rows are written.

        Args:
            named_specs: path and spec of each leaf, one row of one environment.
            num_envs: B.
            length: L.

        Raises:
            ValueError: the storage cannot be used; says why and what to do.
        """

    def take_space(self, num_rows: np.ndarray) -> None:
        """Called before rows are written: makes sure that there is space for the first rows of each environment.

        Args:
            num_rows: int64 `[B]`, how many of them.

        Raises:
            OSError: there is not. No row has been changed then.
        """

    def discard(self) -> None:
        """Called when nobody wants the rows any more: leaves nothing on a disk."""


class MemoryStorage:
    """Rows in the memory of the process."""

    on_disk = False

    def disk(self) -> Disk | None:
        """See Storage."""
        return None

    def allocate(self, named_specs: Sequence[NamedSpec], num_envs: int, length: int) -> list[np.ndarray]:
        """See Storage."""
        # np.zeros takes memory only as it is written, as np.empty does, and leaves no garbage in a checkpoint.
        return [np.zeros((num_envs, length, *spec.shape), _dtype(spec)) for _, spec in named_specs]

    def take_space(self, num_rows: np.ndarray) -> None:
        """See Storage."""

    def discard(self) -> None:
        """See Storage."""


@gin.configurable
class MappedStorage:
    """Rows in files that are mapped into memory: for replays that are larger than it.

    One raw file for each leaf, `leaf_000.raw` and so on, `[B, L, ...]` in C order, and one header, `storage.json`, with
    a version, the spec of each leaf, B, L and each file's size. The files are sparse: they take disk space as rows
    arrive. What was written lately is still in memory, as far as other programs leave room, and is as fast as there.

    The folder belongs to one replay buffer of one run at a time. Files of an earlier run in it are replaced, if header
    and sizes say that they are of the same rows and size; a run is continued from its checkpoint, which holds the rows.

    A page of a mapped file that finds no place on the disk ends the process. So the place of rows is taken before they
    are written (posix_fallocate): where another program has filled the disk, `ReplayBuffer.append` fails and changes no
    row.

    Args:
        folder: made if it is not there; one of its own for every run, on a local disk.
    """

    on_disk = True

    def __init__(self, folder: str | os.PathLike[str] = gin.REQUIRED):
        if not os.fspath(folder):
            raise ValueError("MappedStorage.folder is empty; give a folder of its own to every run")
        self._folder = pathlib.Path(folder)
        self._made: list[pathlib.Path] = []

    def disk(self) -> Disk | None:
        """What is free, and what the files of an earlier run take that would be replaced."""
        above = self._folder.absolute()
        while not above.exists():
            above = above.parent
        try:
            tempfile.TemporaryDirectory(dir=above).cleanup()
        except OSError as error:
            raise self._unusable(error) from error
        disk = os.statvfs(above)
        taken = sum(path.lstat().st_blocks * 512 for path in self._folder.glob("leaf_*.raw"))
        return Disk(above.stat().st_dev, taken + disk.f_bavail * disk.f_frsize)

    def allocate(self, named_specs: Sequence[NamedSpec], num_envs: int, length: int) -> list[np.ndarray]:
        """See Storage.

        Raises:
            ValueError: another process or buffer uses the folder, it cannot be a folder, or it holds other files; or
                the operating system cannot take space beforehand.
        """
        if not hasattr(os, "posix_fallocate"):
            raise ValueError("MappedStorage needs posix_fallocate, as Linux has it; leave ReplayBuffer.storage unset")
        names = [f"leaf_{number:03d}.raw" for number in range(len(named_specs))]
        files = [
            {"file": name, "spec": spec_line(named), "bytes": num_envs * length * named[1].num_bytes}
            for name, named in zip(names, named_specs, strict=True)
        ]
        header = {"version": _VERSION, "num_envs": num_envs, "length": length, "leaves": files}
        release = self._take_folder()
        try:
            self._check_files(header)
            self._write(_HEADER, json.dumps(header, indent=1).encode())
            self._row_bytes = np.array([spec.num_bytes for _, spec in named_specs], np.int64)[:, None]
            self._length = length
            self._taken = np.zeros((len(names), num_envs), np.int64)
            self._files: list[int] = []
            return [
                self._map(name, (num_envs, length, *spec.shape), _dtype(spec))
                for name, (_, spec) in zip(names, named_specs, strict=True)
            ]
        except BaseException:
            release()
            raise

    def take_space(self, num_rows: np.ndarray) -> None:
        """See Storage. What was taken before the disk was full stays taken."""
        whole = self._length * self._row_bytes
        for leaf, env_id in np.argwhere(num_rows * self._row_bytes > self._taken):
            taken, size = int(self._taken[leaf, env_id]), int(whole[leaf, 0])
            needed = int(num_rows[env_id] * self._row_bytes[leaf, 0])
            end = min(max(needed, taken + _STEP_BYTES), size)
            try:
                os.posix_fallocate(self._files[leaf], int(env_id) * size + taken, end - taken)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"MappedStorage.folder={self._folder}: new rows do not fit on the disk ({error.strerror}). None "
                    "was stored; make room and resume",
                ) from error
            self._taken[leaf, env_id] = end

    def discard(self) -> None:
        """Removes the files, and the folders that were made for them as far as they are empty."""
        for path in [*self._folder.glob("leaf_*.raw"), self._folder / _HEADER, self._folder / _LOCK]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def _take_folder(self) -> Callable[[], Any]:
        """Makes and locks the folder for as long as this object, which is as long as its ring, lives.

        Returns:
            A function that releases it before.
        """
        self._made = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink == 0:  # who held it has removed it since: it keeps nobody out
                raise BlockingIOError
        except OSError as error:
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                raise
            raise ValueError(
                f"MappedStorage.folder={self._folder} is in use by another process or replay buffer; end that one, or "
                "give each run and each buffer a folder of its own"
            ) from None
        return weakref.finalize(self, os.close, lock)

    def _unusable(self, error: OSError) -> ValueError:
        if isinstance(error, FileExistsError | NotADirectoryError):
            return ValueError(f"MappedStorage.folder={self._folder}: it, or what is above it, is a file; name a folder")
        return ValueError(
            f"MappedStorage.folder={self._folder} cannot be made or written to ({error.strerror}); name a folder on a "
            "local disk that you may write to"
        )

    def _check_files(self, header: dict[str, Any]) -> None:
        """Checks that what lies in the folder may be replaced."""
        advice = f"Give MappedStorage.folder a folder of this run's own, or delete leaf_*.raw and {_HEADER} there"
        path = self._folder / _HEADER
        has_header = path.is_file() and not path.is_symlink()
        if has_header:
            found = _read_header(path)
            if found != header:
                raise ValueError(f"{path} is of other rows: {_first_difference(found, header)}. {advice}")
        for leaf in header["leaves"]:
            file = self._folder / leaf["file"]
            if not os.path.lexists(file):
                continue
            if not has_header or file.is_symlink() or not file.is_file():
                raise ValueError(f"{file} is no file of this storage: {path.name} does not tell of it. {advice}")
            if file.stat().st_size != leaf["bytes"]:
                raise ValueError(f"{file} has {file.stat().st_size} bytes, expected {leaf['bytes']}. {advice}")

    def _write(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all."""
        descriptor = self._open_new(name)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(self._new(name), self._folder / name)

    def _map(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        descriptor = self._open_new(name)
        try:
            os.truncate(descriptor, size)
            # To touch a page beyond the end of a mapped file ends the process.
            found = os.fstat(descriptor).st_size
            if found != size:
                raise ValueError(f"{self._folder / name} has {found} bytes, expected {size}; use another disk")
            array = np.frombuffer(mmap.mmap(descriptor, size), dtype) if size else np.empty(0, dtype)
        except BaseException:
            os.close(descriptor)
            raise
        self._files.append(descriptor)
        weakref.finalize(self, os.close, descriptor)
        os.replace(self._new(name), self._folder / name)
        return array.reshape(shape)

    def _open_new(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        return os.open(self._new(name), flags, 0o666)

    def _new(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.new"


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    return words_of(torch.empty(0, dtype=spec.dtype)).dtype


def _read_header(path: pathlib.Path) -> Any:
    """The content of a file that may be anything; None if it is no JSON."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(_LARGEST_HEADER))
    except (ValueError, RecursionError):
        return None


def _first_difference(found: Any, expected: dict[str, Any]) -> str:
    """The first entry of two headers that differs, in words."""
    if not isinstance(found, dict) or found.keys() != expected.keys():
        return "it is no header that this version wrote"
    for key in ("version", "num_envs", "length"):
        if found[key] != expected[key]:
            return f"found {key}={found[key]!r}, expected {expected[key]}"
    leaves = found["leaves"] if isinstance(found["leaves"], list) else []
    pairs = itertools.zip_longest(leaves, expected["leaves"])
    return next((f"found {str(one):.200}, expected {other}" for one, other in pairs if one != other), "they differ")
