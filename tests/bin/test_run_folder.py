"""The configs in a run's folder: written whole or not at all."""

import contextlib
import errno
import os
import resource
import signal

import pytest

from alfish import gin_config
from alfish.bin import run_folder


@contextlib.contextmanager
def full_disk():
    """The kernel writes no byte more, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def save(tmp_path, monkeypatch):
    """A function that saves a config with one binding."""

    def save_one(value, env_steps=0):
        monkeypatch.setattr(gin_config, "config_text", lambda: f"A = {value}\n")
        return run_folder.save_config(tmp_path, env_steps)

    return save_one


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_an_unchanged_config_is_not_touched(tmp_path, save):
    assert save(1) == []
    before = (tmp_path / "config.gin").stat()
    with full_disk():
        assert save(1, 10) == []
    assert (tmp_path / "config.gin").stat() == before
    assert contents(tmp_path) == {"config.gin": "A = 1\n"}


def test_a_changed_config_is_written_and_the_one_that_made_the_steps_is_kept(tmp_path, save):
    save(1)
    assert save(2, 10) == ["A: 1 → 2"]
    assert contents(tmp_path) == {"config.gin": "A = 2\n", "config.until_10.gin": "A = 1\n"}
    # Killed before its first checkpoint, the run of A = 2 has left no step.
    assert save(3, 10) == ["A: 2 → 3"]
    assert contents(tmp_path) == {"config.gin": "A = 3\n", "config.until_10.gin": "A = 1\n"}


def test_a_full_disk_leaves_the_config(tmp_path, save):
    save(1)
    with full_disk(), pytest.raises(OSError, match=rf"could not be written: {os.strerror(errno.EFBIG)}"):
        save(2, 10)
    assert contents(tmp_path) == {"config.gin": "A = 1\n"}
    (tmp_path / "config.until_10.gin").write_text("A = 1\n")
    with full_disk(), pytest.raises(OSError, match=rf"config\.gin could not be written: {os.strerror(errno.EFBIG)}"):
        save(2, 10)
    assert contents(tmp_path) == {"config.gin": "A = 1\n", "config.until_10.gin": "A = 1\n"}


def test_the_operative_config_is_best_effort(tmp_path, caplog):
    run_folder.save_operative_config(tmp_path)
    with full_disk():
        gin_config.parse_text("import alfish.trainers.updater\nUpdater.max_skipped_updates = 3\n")
        run_folder.save_operative_config(tmp_path)
    assert os.listdir(tmp_path) == ["operative_config.gin"]
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}/operative_config.gin could not be written: {os.strerror(errno.EFBIG)}"


@pytest.mark.parametrize("name", ["mkdir", "open"])
def test_a_folder_that_cannot_be_written_to_says_what_to_do(tmp_path, monkeypatch, name):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    if name == "mkdir":
        monkeypatch.setattr(run_folder.pathlib.Path, "mkdir", refuse)
    else:
        monkeypatch.setattr(run_folder, "open", refuse, raising=False)
    message = r"--root_dir=\S+ cannot be written to \(Permission denied\); give another folder"
    with pytest.raises(ValueError, match=message), run_folder.locked(tmp_path):
        pass
