"""Rows in mapped files."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from alfish import specs
from alfish.experience_replayers import storage as storage_module
from alfish.experience_replayers.ring import Ring
from alfish.experience_replayers.storage import MappedStorage

SPEC = {"a": specs.TensorSpec((2,), torch.float32), "b/c": specs.TensorSpec((), torch.bool)}


def _ring(folder, spec=SPEC, num_envs=2, length=4):
    return Ring(spec, num_envs, length, MappedStorage(folder))


def _window(start, num_rows):
    number = torch.arange(start, start + num_rows)[:, None] + 0.5 * torch.arange(2)
    return {"a": torch.stack([number, -number], -1), "b/c": number > 2}


def test_rows_are_in_the_files(tmp_path):
    ring = _ring(tmp_path / "new" / "folder")
    ring.append(_window(0, 3))
    ring.append(_window(3, 3))
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "leaf_000.raw", "leaf_001.raw", "storage.json"]
    first = np.fromfile(folder / "leaf_000.raw", np.float32).reshape(2, 4, 2)
    assert first[0, :, 0].tolist() == [4.0, 5.0, 2.0, 3.0]
    assert first[1, :, 1].tolist() == [-4.5, -5.5, -2.5, -3.5]
    assert np.fromfile(folder / "leaf_001.raw", np.bool_).tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
    assert json.loads((folder / "storage.json").read_text()) == {
        "version": 1,
        "num_envs": 2,
        "length": 4,
        "leaves": [
            {"file": "leaf_000.raw", "spec": "a: torch.float32 (2,)", "bytes": 64},
            {"file": "leaf_001.raw", "spec": "b/c: torch.bool ()", "bytes": 8},
        ],
    }
    gathered = ring.gather(np.arange(2, 6), np.ones(4, np.int64))
    assert gathered["a"][:, 0].tolist() == [2.5, 3.5, 4.5, 5.5]
    assert gathered["b/c"].dtype == torch.bool


def test_a_leaf_without_elements(tmp_path):
    ring = _ring(tmp_path, {"empty": specs.TensorSpec((0,)), "a": specs.TensorSpec()})
    ring.append({"empty": torch.zeros(2, 2, 0), "a": torch.ones(2, 2)})
    gathered = ring.gather(np.array([1]), np.array([0]))
    assert (gathered["empty"].shape, gathered["a"].tolist()) == ((1, 0), [1.0])


def test_files_of_the_same_rows_are_replaced_and_begin_empty(tmp_path):
    ring = _ring(tmp_path)
    ring.append(_window(1, 4))
    del ring
    inode = (tmp_path / "leaf_000.raw").stat().st_ino
    (tmp_path / "leaf_000.raw.new").write_bytes(b"left over by a process that was killed")
    again = _ring(tmp_path)
    assert (tmp_path / "leaf_000.raw").stat().st_ino != inode
    assert again.num_added.tolist() == [0, 0]
    assert not np.fromfile(tmp_path / "leaf_000.raw", np.float32).any()
    again.append(_window(0, 1))
    assert np.fromfile(tmp_path / "leaf_001.raw", np.uint8).size == 8


def test_a_process_killed_between_two_files_is_no_obstacle(tmp_path):
    _ring(tmp_path)
    (tmp_path / "leaf_001.raw").unlink()
    _ring(tmp_path).append(_window(0, 4))


def _cut(path, size):
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: _cut(f / "leaf_000.raw", 63), r"leaf_000.raw has 63 bytes, expected 64. Give .* folder .* own"),
        (lambda f: _cut(f / "leaf_001.raw", 9), r"leaf_001.raw has 9 bytes, expected 8. Give MappedStorage.folder"),
        (lambda f: (f / "storage.json").unlink(), "leaf_000.raw is no file of this storage: storage.json does not"),
        (lambda f: (f / "storage.json").write_text("{"), "of other rows: it is no header that this version"),
        (lambda f: (f / "storage.json").write_text("[" * 100_000), "of other rows: it is no header that this version"),
        (lambda f: (f / "storage.json").write_bytes(b"\xff"), "of other rows: it is no header that this version"),
        (lambda f: (f / "storage.json").write_text("[]"), "of other rows: it is no header that this version wrote"),
        (lambda f: _edit(f, version=2), "found version=2, expected 1"),
        (lambda f: _edit(f, length=5), "found length=5, expected 4"),
        (lambda f: _edit(f, num_envs="2"), "found num_envs='2', expected 2"),
        (lambda f: _edit(f, leaves=7), "storage.json is of other rows"),
        (lambda f: _edit(f, leaves=[]), r"found None, expected \{'file': 'leaf_000.raw', 'spec'"),
        (lambda f: _link(f, "leaf_000.raw"), "leaf_000.raw is no file of this storage"),
        (lambda f: _link(f, "storage.json"), "leaf_000.raw is no file of this storage"),
    ],
)
def test_files_that_do_not_agree_are_refused_and_left_alone(tmp_path, change, message):
    folder = tmp_path / "replay"
    ring = _ring(folder)
    ring.append(_window(1, 4))
    del ring
    change(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused = [MappedStorage(folder), MappedStorage(folder)]
    for storage in refused:  # a refused storage keeps no lock
        with pytest.raises(ValueError, match=message):
            Ring(SPEC, 2, 4, storage)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def _edit(folder, **changes):
    path = folder / "storage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _link(folder, name):
    target = folder.parent / "precious"
    (folder / name).rename(target)
    (folder / name).symlink_to(target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 5}, "found length=4, expected 5"),
        ({"num_envs": 1}, "found num_envs=2, expected 1"),
        ({"spec": SPEC | {"a": specs.TensorSpec((3,))}}, r"a: torch.float32 \(2,\).*a: torch.float32 \(3,\)"),
        ({"spec": {"a": SPEC["a"]}}, "b/c: torch.bool"),
    ],
)
def test_files_of_other_rows_are_refused(tmp_path, arguments, message):
    _ring(tmp_path)
    with pytest.raises(ValueError, match=message):
        _ring(tmp_path, **arguments)


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="it, or what is above it, is a file; name a folder"):
            _ring(folder)
    with pytest.raises(ValueError, match="it, or what is above it, is a file; name a folder"):
        MappedStorage(tmp_path / "file" / "below").disk()
    with pytest.raises(ValueError, match="MappedStorage.folder is empty"):
        MappedStorage("")


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    for use in (MappedStorage(tmp_path / "new").disk, lambda: _ring(tmp_path / "new")):
        with pytest.raises(ValueError, match="new cannot be made or written to .Permission denied.; name a folder on"):
            use()


def test_one_buffer_at_a_time(tmp_path):
    storage = MappedStorage(tmp_path)
    ring = Ring(SPEC, 2, 4, storage)
    for other in (storage, MappedStorage(tmp_path)):
        with pytest.raises(ValueError, match="is in use by another process or replay buffer; end that one, or give"):
            Ring(SPEC, 2, 4, other)
    ring.append(_window(0, 2))
    del ring, storage, other
    _ring(tmp_path)


def test_two_processes_on_one_folder_are_refused(tmp_path):
    ring = _ring(tmp_path)
    program = f"""
from alfish import specs
from alfish.experience_replayers.storage import MappedStorage
MappedStorage({str(tmp_path)!r}).allocate([("a", specs.TensorSpec())], 2, 4)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 1
    assert "is in use by another process or replay buffer" in finished.stderr
    ring.append(_window(0, 2))


def test_a_disk_without_locks_is_an_error_of_its_own(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks available"):
        _ring(tmp_path)


@pytest.fixture
def disk(monkeypatch):
    """A disk with `left` bytes; `calls` are the ranges that were asked of it. Space is taken row by row."""

    class Disk:
        left = 10**6

        def __init__(self):
            self.calls = []

        def allocate(self, descriptor, offset, size):
            self.calls.append((offset, size))
            if size > self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.left -= size

    disk = Disk()
    monkeypatch.setattr(os, "posix_fallocate", disk.allocate)
    monkeypatch.setattr(storage_module, "_STEP_BYTES", 1)
    return disk


def test_space_is_taken_before_rows_are_written(tmp_path, disk):
    ring = _ring(tmp_path)
    ring.append(_window(0, 3))
    # 8 bytes per row of leaf a, 1 of leaf b/c; the rows of environment 1 begin at row 4 of each file
    assert disk.calls == [(0, 24), (32, 24), (0, 3), (4, 3)]
    disk.calls.clear()
    ring.append({"a": torch.zeros(1, 1, 2), "b/c": torch.zeros(1, 1, dtype=torch.bool)}, first_env=1)
    assert disk.calls == [(56, 8), (7, 1)]
    ring.append(_window(0, 4))
    assert disk.calls[2:] == [(24, 8), (3, 1)]


def test_space_is_taken_in_steps(tmp_path, disk, monkeypatch):
    monkeypatch.setattr(storage_module, "_STEP_BYTES", 17)
    ring = _ring(tmp_path)
    for number in range(4):
        ring.append(_window(number, 1))
    # Of the smaller leaf there are not so many bytes. 17 bytes are 2 rows, with 15 more 4.
    assert disk.calls == [(0, 17), (32, 17), (0, 4), (4, 4), (17, 15), (49, 15)]


def test_a_full_disk_refuses_rows_and_changes_nothing(tmp_path, disk):
    ring = _ring(tmp_path)
    ring.append(_window(0, 3))
    before = [path.read_bytes() for path in sorted(tmp_path.glob("*.raw"))]
    disk.left = 17
    with pytest.raises(OSError, match="new rows do not fit on the disk .No space left on device.. None was stored"):
        ring.append(_window(3, 1))
    assert ring.num_added.tolist() == [3, 3]
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.raw"))] == before
    disk.left += 1  # 18 bytes are needed; what was taken stays taken
    ring.append(_window(3, 1))
    assert disk.left == 0
    ring.append(_window(4, 4))  # the files are full: nothing new is taken
    assert ring.gather(np.array([7]), np.array([0]))["a"].tolist() == [[7.0, -7.0]]


def test_written_rows_have_their_place(tmp_path):
    spec = {"a": specs.TensorSpec((3000,), torch.uint8), "b": specs.TensorSpec()}
    ring = _ring(tmp_path, spec, num_envs=2, length=200)
    for rows in range(1, 101):
        ring.append({"a": torch.ones(1, 2, 3000, dtype=torch.uint8), "b": torch.ones(1, 2)})
        if rows in (1, 22, 100):
            first, second = (tmp_path / name for name in ("leaf_000.raw", "leaf_001.raw"))
            assert 2 * 3000 * rows <= first.stat().st_blocks * 512 <= 2 * (3000 * rows + 2**16 + 2 * 4096)
            assert 1600 <= second.stat().st_blocks * 512 <= 4096 * 2


def test_an_operating_system_that_takes_no_space_beforehand(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(ValueError, match="MappedStorage needs posix_fallocate, .*; leave ReplayBuffer.storage unset"):
        _ring(tmp_path)


def test_a_state_that_finds_no_room_is_refused_and_changes_nothing(tmp_path, disk):
    saved, ring = Ring(SPEC, 2, 4), _ring(tmp_path)
    saved.append(_window(0, 3))
    ring.append(_window(5, 1))
    disk.left = 35
    with pytest.raises(OSError, match="new rows do not fit on the disk"):
        ring.load_state_dict(saved.state_dict())
    assert ring.num_added.tolist() == [1, 1]
    assert ring.gather(np.array([0]), np.array([1]))["a"].tolist() == [[5.5, -5.5]]
    disk.left += 1
    ring.load_state_dict(saved.state_dict())
    assert ring.gather(np.array([2]), np.array([1]))["a"].tolist() == [[2.5, -2.5]]


def test_what_an_earlier_run_takes_counts_as_available(tmp_path):
    storage = MappedStorage(tmp_path / "not" / "there")
    found = os.statvfs(tmp_path)
    number, available = storage.disk()
    assert number == tmp_path.stat().st_dev
    assert abs(available / (found.f_bavail * found.f_frsize) - 1) < 0.05
    assert list(tmp_path.iterdir()) == []
    spec = {"a": specs.TensorSpec((2**20,), torch.uint8)}
    _ring(tmp_path / "used", spec, 1, 4).append({"a": torch.ones(4, 1, 2**20, dtype=torch.uint8)})
    available = [MappedStorage(tmp_path / name).disk().available for name in ("used", "unused")]
    assert available[0] - available[1] == pytest.approx(4 * 2**20, rel=0.5)


def test_what_is_discarded_leaves_nothing_but_what_was_there(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes").touch()
    for folder in (tmp_path / "there" / "new" / "rows", tmp_path / "there"):
        storage = MappedStorage(folder)
        ring = Ring(SPEC, 2, 4, storage)
        ring.append(_window(0, 3))
        storage.discard()
        assert [path.name for path in tmp_path.rglob("*")] == ["there", "notes"]
    _ring(tmp_path / "there").append(_window(0, 3))  # the folder is free again
