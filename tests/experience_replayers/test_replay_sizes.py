"""What a replay buffer takes, and what it refuses to take."""

import pathlib
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from alfish import specs
from alfish.data_structures import Experience, RowsNeeded, time_step_spec
from alfish.experience_replayers import sizes
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.recent_mix import RecentMix
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import UniformSampler
from alfish.experience_replayers.storage import Disk, MappedStorage, MemoryStorage

NEEDED = RowsNeeded(past=2, future=3, future_observations=1)
SAMPLERS = {
    "uniform": UniformSampler,
    "prioritized": lambda: PrioritizedSampler(alpha=0.6, beta=0.4),
    "mix": lambda: RecentMix(PrioritizedSampler(alpha=0.6, beta=0.4), recent_ratio=0.25, recent_rows=20),
}


def _small_spec() -> Experience:
    return Experience(time_step_spec(specs.TensorSpec((3,)), specs.TensorSpec((), torch.int64)))


def test_bytes_are_those_of_rows_and_index(experience_spec, make_window):
    # per row: image 6, number 8, step type 1, reward and discount 4 each, env 4, two actions 8 each, value 4
    rows = 100 * (6 + 8 + 1 + 4 + 4 + 4 + 8 + 8 + 4)
    # per slot an entry and a begin; counters of rows and episodes and a flag
    index = (4 + 4) * 100 + 2 * (2 * 8 + 1)
    replay = ReplayBuffer(experience_spec, 2, 101, NEEDED)
    total = rows + index + UniformSampler().predicted_bytes(2, 50)
    assert (replay.size.memory, replay.size.disk, replay.num_bytes) == (total, 0, total)
    for start in range(0, 52, 2):
        replay.append(make_window(["LL", "LL"], start))
    state = replay.state_dict()
    assert sum(tensor.nbytes for tensor in state["ring"]["rows"]) == rows
    assert sum(tensor.nbytes for tensor in state["episodes"]["arrays"]) + 2 * 8 == index


def test_mapped_rows_are_on_the_disk(experience_spec, tmp_path):
    in_memory = ReplayBuffer(experience_spec, 2, 100, NEEDED).size
    mapped = ReplayBuffer(experience_spec, 2, 100, NEEDED, storage=MappedStorage(tmp_path)).size
    assert (mapped.memory, mapped.disk) == (in_memory.memory - 4700, 4700)
    assert mapped.total == in_memory.total


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("on_disk", [False, True])
def test_prediction_is_within_10_percent_of_what_is_allocated(sampler, on_disk, tmp_path):
    num_envs, length = 4, 20_000
    window = specs.zeros(_small_spec(), (2_000, num_envs))
    window = window._replace(time_step=window.time_step._replace(step_type=torch.full((2_000, num_envs), 2).byte()))
    # What is compiled or imported at first use is none of the buffer's.
    warm = MappedStorage(tmp_path / "warm") if on_disk else MemoryStorage()
    ReplayBuffer(_small_spec(), num_envs, 8_000, RowsNeeded(), 1, SAMPLERS[sampler](), warm).append(window)
    storage = MappedStorage(tmp_path) if on_disk else MemoryStorage()
    tracemalloc.start()
    try:
        replay = ReplayBuffer(_small_spec(), num_envs, num_envs * length, RowsNeeded(), 1, SAMPLERS[sampler](), storage)
        for _ in range(11):
            replay.append(window)
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    files = sum(file.stat().st_blocks * 512 for file in tmp_path.glob("*.raw"))
    assert abs(replay.size.memory / allocated - 1) < 0.1
    assert files == 0 if not on_disk else abs(replay.size.disk / files - 1) < 0.1


_RESIDENT = """
import pathlib
import numpy as np
import torch
from alfish import specs
from alfish.data_structures import Experience, RowsNeeded, time_step_spec
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.replay_buffer import ReplayBuffer

def resident():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

def full(capacity, prioritized, step_type):
    action = specs.TensorSpec((), torch.int64)
    spec = Experience(time_step_spec(specs.TensorSpec((4,)), action), action)
    sampler = PrioritizedSampler(0.6, 0.4) if prioritized else None
    replay = ReplayBuffer(spec, 4, capacity, RowsNeeded(), sampler=sampler)
    window = specs.zeros(spec, (500, 4))
    window = window._replace(time_step=window.time_step._replace(step_type=torch.full((500, 4), step_type).byte()))
    while replay.num_rows < replay.capacity:
        replay.append(window)
    replay.sample(8, np.random.default_rng(0))
    return replay

full(4_000, True, 1)
for prioritized, step_type in ((False, 1), (True, 1), (True, 2)):
    before = resident()
    replay = full(400_000, prioritized, step_type)
    print(replay.size.memory / (resident() - before))
    del replay
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_prediction_is_within_10_percent_of_what_is_resident():
    """For the rows of CartPole, in one long episode or each an episode of its own."""
    finished = subprocess.run([sys.executable, "-c", _RESIDENT], capture_output=True, text=True, check=True)
    ratios = [float(line) for line in finished.stdout.split()]
    assert len(ratios) == 3
    assert all(0.9 < ratio < 1.1 for ratio in ratios), ratios


def test_buffers_that_fit_alone_must_fit_together(monkeypatch):
    monkeypatch.setattr(sizes, "physical_memory", lambda: 100)
    first, second, other = Disk(1, 50), Disk(1, 50), Disk(2, 50)

    def check(*taken):
        sizes.check_sizes_together({f"{n}.capacity": (sizes.ReplayBytes(*size), disk) for n, (size, disk) in taken})

    check(("a", ((60, 0), None)), ("b", ((40, 0), None)))
    check(("a", ((0, 50), first)), ("b", ((0, 50), other)))
    check(("a", ((0, 20), first)), ("b", ((0, 30), second)), ("c", ((0, 50), other)))
    message = r"take 101 bytes together \(a.capacity: 60 bytes, b.capacity: 41 bytes\), this machine has 100 bytes"
    with pytest.raises(ValueError, match=message):
        check(("a", ((60, 0), None)), ("b", ((41, 0), None)))
    message = r"take 51 bytes together \(a.capacity: 20 bytes, c.capacity: 31 bytes\), the disk .* has 50 bytes left"
    with pytest.raises(ValueError, match=message):
        check(("a", ((0, 20), first)), ("b", ((0, 50), other)), ("c", ((0, 31), second)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("on_disk", [False, True])
def test_memory_is_taken_as_rows_arrive(on_disk, tmp_path):
    def resident() -> int:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

    spec = Experience(time_step_spec(specs.TensorSpec((2**20,), torch.uint8), specs.TensorSpec()))
    window = specs.zeros(spec, (2, 1))
    before = resident()
    replay = ReplayBuffer(spec, 1, 512, RowsNeeded(), storage=MappedStorage(tmp_path) if on_disk else None)
    replay.append(window)
    assert replay.num_bytes > 512 * 2**20
    assert resident() - before < 100 * 2**20
    files = sum(file.stat().st_blocks * 512 for file in tmp_path.glob("*.raw"))
    assert files == 0 if not on_disk else 2 * 2**20 <= files < 3 * 2**20


def test_the_cap_names_the_largest_capacity_that_fits(experience_spec):
    def build(capacity, max_bytes):
        sampler = PrioritizedSampler(alpha=0.6, beta=0.4)
        return ReplayBuffer(experience_spec, 2, capacity, NEEDED, sampler=sampler, max_bytes=max_bytes)

    cap = build(400, None).num_bytes
    assert build(400, cap).capacity == 400
    message = rf"capacity=1000 rows take .* bytes, ReplayBuffer.max_bytes allows {cap:,} bytes. .* to at most (\d+),"
    with pytest.raises(ValueError, match=message) as error:
        build(1000, cap)
    assert "at most 400," in str(error.value)
    with pytest.raises(ValueError, match="to at most 398,"):
        build(400, cap - 1)


def test_where_no_block_fits_no_capacity_is_advised(experience_spec):
    smallest = ReplayBuffer(experience_spec, 2, 2 * 4, RowsNeeded(future=3)).num_bytes
    message = rf"allows {smallest - 1:,} bytes\. No capacity is small enough: one block of 4 rows for each of 2 environ"
    with pytest.raises(
        ValueError, match=rf"{message}.* takes {smallest:,} bytes\. Allow at least that, or lower Trainer"
    ):
        ReplayBuffer(experience_spec, 2, 100, RowsNeeded(future=3), max_bytes=smallest - 1)
    with pytest.raises(ValueError, match=r"Lower ReplayBuffer\.capacity to at most 8,"):
        ReplayBuffer(experience_spec, 2, 100, RowsNeeded(future=3), max_bytes=smallest)


def test_a_full_disk_is_refused_before_anything_is_written(experience_spec, tmp_path, monkeypatch):
    storage = MappedStorage(tmp_path / "replay")
    monkeypatch.setattr(storage, "disk", lambda: Disk(1, 100 * 47 - 1))
    with pytest.raises(ValueError, match="capacity=100 rows take 4,700 bytes, the disk of .* 98,"):
        ReplayBuffer(experience_spec, 2, 100, NEEDED, storage=storage)
    assert list(tmp_path.iterdir()) == []


def test_memory_of_mapped_rows_is_not_asked_of_the_machine(experience_spec, tmp_path, monkeypatch):
    size = ReplayBuffer(experience_spec, 2, 1000, NEEDED).size
    monkeypatch.setattr(sizes, "physical_memory", lambda: size.memory - 1)
    with pytest.raises(ValueError, match="this machine has .* of memory. Lower ReplayBuffer.capacity to at most 998,"):
        ReplayBuffer(experience_spec, 2, 1000, NEEDED)
    ReplayBuffer(experience_spec, 2, 1000, NEEDED, storage=MappedStorage(tmp_path))


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(sizes, "_CONTAINER_MEMORY_LIMIT", limit)
    physical = sizes.physical_memory()
    limit.write_text("max\n")
    assert sizes.physical_memory() == physical
    limit.write_text("4096\n")
    assert sizes.physical_memory() == 4096


def test_state_is_views(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 4000, NEEDED, sampler=PrioritizedSampler(alpha=0.6, beta=0.4))
    window = make_window(["M" * 1000, "M" * 1000], 0)
    for _ in range(2):
        replay.append(window)
    replay.sample(8, np.random.default_rng(0))
    tracemalloc.start()
    try:
        state = replay.state_dict()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert state["sampler"]["priority"].nbytes >= 16_000
    assert peak < 16_000  # of more than 100 kB
