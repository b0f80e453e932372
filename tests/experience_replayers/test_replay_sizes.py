"""What a replay buffer takes, and what it refuses to take."""

import pathlib
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
from alfish.experience_replayers.storage import MappedStorage, MemoryStorage

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
    # per slot an entry, a begin and an end; one more begin and end; counters of rows and episodes and a flag
    index = 8 * 3 * 100 + 2 * (2 * 8 + 2 * 8 + 1)
    replay = ReplayBuffer(experience_spec, 2, 101, NEEDED)
    total = rows + index + UniformSampler().predicted_bytes(2, 50)
    assert (replay.size.memory, replay.size.disk, replay.num_bytes) == (total, 0, total)
    for start in range(0, 52, 2):
        replay.append(make_window(["LL", "LL"], start))
    state = replay.state_dict()
    assert sum(tensor.nbytes for tensor in state["ring"]["leaves"]) == rows
    assert sum(tensor.nbytes for tensor in state["episodes"]["arrays"]) + 2 * 8 == index


def test_mapped_rows_are_on_the_disk(experience_spec, tmp_path):
    in_memory = ReplayBuffer(experience_spec, 2, 100, NEEDED).size
    mapped = ReplayBuffer(experience_spec, 2, 100, NEEDED, storage=MappedStorage(tmp_path)).size
    assert (mapped.memory, mapped.disk) == (in_memory.memory - 4700, 4700)
    assert mapped.total == in_memory.total


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("on_disk", [False, True])
def test_prediction_is_within_10_percent_of_what_is_allocated(sampler, on_disk, tmp_path):
    num_envs, length = 4, 5_000
    window = specs.zeros(_small_spec(), (500, num_envs))
    window = window._replace(time_step=window.time_step._replace(step_type=torch.full((500, num_envs), 2).byte()))
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


def test_a_full_disk_is_refused_before_anything_is_written(experience_spec, tmp_path, monkeypatch):
    storage = MappedStorage(tmp_path / "replay")
    monkeypatch.setattr(storage, "available_bytes", lambda: 100 * 47 - 1)
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
