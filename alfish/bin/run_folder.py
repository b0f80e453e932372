"""What lies in a run's folder, apart from the checkpoints: configs, a lock."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from absl import logging

from alfish import gin_config
from alfish.bin.config_differences import differences
from alfish.trainers.checkpoint_files import replace_file

METRICS, TENSORBOARD = "metrics.csv", "tensorboard"
CONFIG, OPERATIVE_CONFIG = "config.gin", "operative_config.gin"


def saved_config(folder: pathlib.Path) -> str:
    """The path of the config that a run saved.

    Raises:
        ValueError: the folder holds no run.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"--root_dir={folder} holds no run: {path} is missing; give a folder that train has printed")
    return os.fspath(path.absolute())


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Makes a run's folder, and keeps a second process from training in it.

    Raises:
        ValueError: another process trains there, or it cannot be a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"--root_dir={folder}: {error.filename} is a file; give another folder") from error
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise _not_writable(folder, error) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {folder}; stop it or give another --root_dir") from None
        yield


def _not_writable(folder: pathlib.Path, error: OSError) -> ValueError:
    return ValueError(
        f"--root_dir={folder} cannot be written to ({error.strerror}); give another folder, or the right to write there"
    )


def save_config(folder: pathlib.Path, env_steps: int) -> list[str]:
    """Writes the config, if it has changed; one with other bindings is kept as `config.until_<env_steps>.gin`.

    Args:
        folder: of the run.
        env_steps: where the run stands.

    Returns:
        Lines that tell in what the new one differs from the old one; empty if it does not, or if there was none.

    Raises:
        OSError: it could not be written; the one that was there is untouched.
    """
    path, new = folder / CONFIG, gin_config.config_text()
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old == new:
        return []
    lines = differences(old, new) if old else []
    kept = folder / f"config.until_{env_steps}.gin"
    # One that is there made the steps until here; of a later one that comes back to them, nothing is left.
    if lines and not kept.exists():
        _write(kept, old)
    _write(path, new)
    return lines


def save_operative_config(folder: pathlib.Path) -> None:
    """Writes what has been used so far, defaults included; warns if it cannot: no run needs it to go on."""
    try:
        _write(folder / OPERATIVE_CONFIG, gin_config.operative_config_text())
    except OSError as error:
        logging.warning("%s", error.strerror)


def _write(path: pathlib.Path, text: str) -> None:
    try:
        replace_file(path, memoryview(text.encode()))
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error
