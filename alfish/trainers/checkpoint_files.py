"""The files of one checkpoint: written with checksums, read only if they are what they were.

A checkpoint is a folder. `state.pt` holds the nested state of all components without their large tensors, which are
`.npy` files of their own, so that gigabytes of replay are written from memory and read into it without a second copy.
`manifest.json`, written last, lists the files with sizes and checksums. Everything read here may come from a stranger:
no pickle, no path that leads out of the folder, and every surprise is a `DamagedCheckpoint`.
"""

import hashlib
import io
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from alfish.trainers.state_nests import KEY_TYPES, Path, split

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.pt"
CHUNK_BYTES = 8 << 20


class DamagedCheckpoint(ValueError):
    """A file of a checkpoint is missing, is not what was written, or cannot be read safely."""


class StoredFile(NamedTuple):
    """A line of the manifest.

    Attributes:
        name: the file, in the checkpoint's folder.
        num_bytes: its size.
        sha256: of its content, hexadecimal.
        component: whose tensor it holds; None for `state.pt`, which holds the rest of all.
        path: keys and indices that lead to the tensor in the component's state.
    """

    name: str
    num_bytes: int
    sha256: str
    component: str | None = None
    path: Path = ()


class Manifest(NamedTuple):
    """What a checkpoint consists of."""

    step: int
    components: tuple[str, ...]
    files: tuple[StoredFile, ...]


def sync_folder(folder: pathlib.Path) -> None:
    """Makes the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_checkpoint(folder: pathlib.Path, step: int, states: Mapping[str, Any]) -> None:
    """Writes the states of all components into an empty folder, and waits until they are on the disk.

    Args:
        folder: exists and is empty.
        step: goes into the manifest.
        states: by component; nests of dicts, lists, tuples, tensors and plain values.

    Raises:
        OSError: the disk is full, or the like.
        ValueError: a state holds something else; the message names its path.
    """
    small: dict[str, Any] = {}
    files: list[StoredFile] = []
    large: list[tuple[str, Path, torch.Tensor]] = []
    for component, state in states.items():
        small[component], tensors = split(state, component)
        large.extend((component, path, tensor) for path, tensor in tensors.items())
    for number, (component, path, tensor) in enumerate(large):
        name = f"tensor_{number:05d}.npy"
        files.append(write_file(folder / name, _npy_chunks(tensor))._replace(component=component, path=path))
    files.append(write_file(folder / STATE, _chunks(serialize(small))))
    content = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "components": list(states),
        "files": [file._asdict() for file in files],
    }
    content["sha256"] = _content_checksum(content)
    write_file(folder / MANIFEST, _chunks(memoryview(json.dumps(content, indent=1).encode())))
    sync_folder(folder)


def write_file(path: pathlib.Path, chunks: Iterator[memoryview]) -> StoredFile:
    """Writes a new file and waits until it is on the disk; its checksum is taken on the way."""
    digest = hashlib.sha256()
    num_bytes = 0
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            num_bytes += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return StoredFile(path.name, num_bytes, digest.hexdigest())


def replace_file(path: pathlib.Path, data: memoryview) -> None:
    """Writes a file beside and renames it: it is whole or not there, and the one before stays until then.

    Raises:
        OSError: it could not be written; a file that was there is untouched.
    """
    # A fixed name, so that what a killed run left behind is overwritten.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        write_file(temporary, iter([data]))
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def serialize(value: Any) -> memoryview:
    """The bytes that `torch.save` makes. In memory, since it cannot be stopped safely by a disk that is full."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getbuffer()


def deserialize(file: BinaryIO | pathlib.Path, what: str) -> Any:
    """The value in `torch.save`'s bytes, on the CPU, without running code from them.

    Raises:
        DamagedCheckpoint: they cannot be read, or hold more than tensors and plain values.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises many kinds on content that is not its own
        reason = str(error).strip().split("\n")[0]
        if "weights_only" in reason:  # torch's advice is to let the file run code
            reason = "it holds something else, or it is damaged"
        raise DamagedCheckpoint(f"{what} is not a readable file of tensors and plain values: {reason}") from error


def read_manifest(folder: pathlib.Path) -> Manifest:
    """Reads and checks the manifest of a checkpoint.

    Raises:
        DamagedCheckpoint: it is missing or not what was written.
        ValueError: a newer version of the library wrote the checkpoint.
    """
    _check_regular(folder / MANIFEST)
    data = (folder / MANIFEST).read_bytes()
    try:
        content = json.loads(data)
        version, checksum = content["format_version"], content.pop("sha256")
        if checksum != _content_checksum(content):
            raise ValueError("its checksum differs")
    except Exception as error:  # json's, or a TypeError, KeyError, … on content of another structure
        raise DamagedCheckpoint(f"{MANIFEST} is not what was written: {error}") from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{folder} has the checkpoint format {version!r}; this version of the library reads {FORMAT_VERSION}. "
            "Use the version that wrote it"
        )
    try:
        files = tuple(_stored_file(file) for file in content["files"])
        manifest = Manifest(int(content["step"]), tuple(map(str, content["components"])), files)
    except Exception as error:  # likewise
        raise DamagedCheckpoint(f"{MANIFEST} cannot be understood: {error!r}") from error
    if [file.name for file in manifest.files if file.component is None] != [STATE]:
        raise DamagedCheckpoint(f"{MANIFEST} does not list {STATE} once")
    return manifest


def verify(folder: pathlib.Path, file: StoredFile) -> None:
    """Compares a file with its size and checksum, reading it once in pieces.

    Raises:
        DamagedCheckpoint: they differ; the message names the file and what is wrong with it.
    """
    path = folder / file.name
    size = _check_regular(path)
    if size != file.num_bytes:
        raise DamagedCheckpoint(f"{file.name} has {size} bytes, {file.num_bytes} were written")
    with open(path, "rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            raise DamagedCheckpoint(f"{file.name} is not what was written: its checksum differs")


def read_state(folder: pathlib.Path) -> dict[str, Any]:
    """The content of `state.pt`: the states by component, None in place of each large tensor."""
    state = deserialize(folder / STATE, STATE)
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"{STATE} holds {type(state).__name__}, not a dict of states by component")
    return state


def map_tensor(folder: pathlib.Path, file: StoredFile) -> torch.Tensor:
    """A tensor over a private map of the file: pages are read when touched, writing to it does not alter the file."""
    try:
        # A read-only map would end the process when a component, against its promise, writes into the tensor.
        array = np.lib.format.open_memmap(folder / file.name, mode="c")
        return torch.from_numpy(np.asarray(array))
    except OSError:
        raise
    except Exception as error:  # numpy's parser of headers raises many kinds
        raise DamagedCheckpoint(f"{file.name} does not hold a tensor: {error}") from error


def _stored_file(content: Mapping[str, Any]) -> StoredFile:
    name, component, path = content["name"], content["component"], tuple(content["path"])
    if not re.fullmatch(r"[A-Za-z0-9_]+\.(npy|pt)", name):
        raise ValueError(f"{name!r} is not the name of a checkpoint's file")
    if not all(type(key) in KEY_TYPES for key in path):
        raise ValueError(f"{path!r} is not a path in a state")
    return StoredFile(
        name=name,
        num_bytes=int(content["num_bytes"]),
        sha256=str(content["sha256"]),
        component=None if component is None else str(component),
        path=path,
    )


def _check_regular(path: pathlib.Path) -> int:
    """The size of a file that lies in the folder itself; links are refused since they may lead anywhere."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path.name} is missing") from None
    if not stat.S_ISREG(status.st_mode):
        raise DamagedCheckpoint(f"{path.name} is not a regular file")
    return status.st_size


def _content_checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _chunks(data: memoryview) -> Iterator[memoryview]:
    for begin in range(0, len(data), CHUNK_BYTES):
        yield data[begin : begin + CHUNK_BYTES]


def _npy_chunks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The `.npy` file of a tensor; its elements come from its own memory if that is on the CPU and contiguous."""
    array = tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    header = io.BytesIO()
    content = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, content)
    yield header.getbuffer()
    # What is not contiguous, such as the rows of a replay that is not full, is copied piece by piece.
    is_whole = array.flags.c_contiguous
    step = 1 if is_whole else max(1, CHUNK_BYTES * len(array) // array.nbytes)
    for piece in [array] if is_whole else (array[n : n + step] for n in range(0, len(array), step)):
        yield from _chunks(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
