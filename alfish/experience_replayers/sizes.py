"""How much memory and disk a replay buffer takes, reckoned before anything is allocated."""

import bisect
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from alfish import nest, specs
from alfish.experience_replayers.episode_index import EpisodeIndex
from alfish.experience_replayers.samplers import Sampler
from alfish.experience_replayers.storage import Disk, Storage

_CONTAINER_MEMORY_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


class ReplayBytes(NamedTuple):
    """Bytes of a full replay buffer.

    Attributes:
        memory: in memory.
        disk: in mapped files.
    """

    memory: int
    disk: int

    @property
    def total(self) -> int:
        """Both."""
        return self.memory + self.disk


def predicted_bytes(spec: nest.Nest, num_envs: int, length: int, sampler: Sampler, storage: Storage) -> ReplayBytes:
    """Bytes that a full ReplayBuffer takes: its rows, the index of their episodes and the sampler.

    Args:
        spec: nest of TensorSpec, one row of one environment.
        num_envs: B.
        length: L, rows that are kept of each environment.
        sampler: before or after it was reserved.
        storage: where the rows lie.
    """
    rows = length * num_envs * specs.num_bytes(spec)
    other = EpisodeIndex.predicted_bytes(num_envs, length) + sampler.predicted_bytes(num_envs, length)
    return ReplayBytes(other, rows) if storage.on_disk else ReplayBytes(rows + other, 0)


def check_size(
    predict: Callable[[int], ReplayBytes],
    num_envs: int,
    length: int,
    block_length: int,
    storage: Storage,
    max_bytes: int | None,
) -> None:
    """Checks that a buffer may take, and finds, what it needs.

    Args:
        predict: from L to what the buffer takes.
        num_envs: B.
        length: L.
        block_length: the smallest L that can be sampled from.
        storage: where the rows lie.
        max_bytes: the most that it may take in all; None for no cap but the machine's.

    Raises:
        ValueError: it takes more than the cap, this machine's memory or what is free on the disk; says how large the
            capacity may be.
    """
    disk = storage.disk()
    limits: list[tuple[str, Callable[[ReplayBytes], int], int | None]] = [
        ("ReplayBuffer.max_bytes allows {}", lambda size: size.total, max_bytes),
        ("this machine has {} of memory", lambda size: size.memory, physical_memory()),
        (
            "the disk of MappedStorage.folder has {} left",
            lambda size: size.disk,
            None if disk is None else disk.available,
        ),
    ]
    for text, part, limit in limits:
        needed, capacity = part(predict(length)), length * num_envs
        if limit is None or needed <= limit:
            continue

        def fits(rows: int, part: Callable[[ReplayBytes], int] = part) -> int:
            return part(predict(rows))

        largest = bisect.bisect_right(range(1, length + 1), limit, key=fits)
        advice = (
            f"Lower ReplayBuffer.capacity to at most {largest * num_envs}, and leave room for the rest of the program"
        )
        if largest < block_length:
            advice = (
                f"No capacity is small enough: one block of {block_length} rows for each of {num_envs} environments "
                f"takes {_readable(fits(block_length))}. Allow at least that, or lower Trainer.num_envs"
            )
        raise ValueError(
            f"ReplayBuffer: capacity={capacity} rows take {_readable(needed)}, {text.format(_readable(limit))}. "
            f"{advice}"
        )


def check_sizes_together(sizes: Mapping[str, tuple[ReplayBytes, Disk | None]]) -> None:
    """Checks that the buffers of one run, of which each alone fits, fit together.

    Args:
        sizes: what each takes, and the disk that its rows lie on; by the name of its capacity's setting.

    Raises:
        ValueError: they take more than this machine's memory or than is free on a disk.
    """
    memory = {name: size.memory for name, (size, _) in sizes.items()}
    limits = [("this machine has {} of memory", memory, physical_memory())]
    disks = {disk.number: disk.available for _, disk in sizes.values() if disk is not None}
    for number, available in disks.items():
        on_it = {name: size.disk for name, (size, disk) in sizes.items() if disk is not None and disk.number == number}
        limits.append(("the disk of their folders has {} left", on_it, available))
    for text, taken, limit in limits:
        if limit is None or sum(taken.values()) <= limit:
            continue
        parts = ", ".join(f"{name}: {_readable(num_bytes)}" for name, num_bytes in taken.items())
        raise ValueError(
            f"the replays of this run take {_readable(sum(taken.values()))} together ({parts}), "
            f"{text.format(_readable(limit))}. Lower one of them, and leave room for the rest of the program"
        )


def physical_memory() -> int | None:
    """Bytes of memory that this machine, or the container that we run in, has; None where it cannot be known."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(physical, int(_CONTAINER_MEMORY_LIMIT.read_text()))
    except (OSError, ValueError):  # there is no such file, or it says "max"
        return physical


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes:,} bytes"
