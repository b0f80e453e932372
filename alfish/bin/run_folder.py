"""What lies in a run's folder, apart from the checkpoints: configs, a lock."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from alfish import gin_config

METRICS, TENSORBOARD, CHECKPOINTS, BEST = "metrics.csv", "tensorboard", "checkpoints", "best"
CONFIG, OPERATIVE_CONFIG = "config.gin", "operative_config.gin"
MAX_DIFFERENCES = 8


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
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {folder}; stop it or give another --root_dir") from None
        yield


def save_config(folder: pathlib.Path, env_steps: int) -> list[str]:
    """Writes the config; one that was there and has other bindings is kept as `config.until_<env_steps>.gin`.

    Args:
        folder: of the run.
        env_steps: where the run stands.

    Returns:
        Lines that tell in what the new one differs from the old one; empty if it does not, or if there was none.
    """
    path, new = folder / CONFIG, gin_config.config_text()
    old = path.read_text(encoding="utf-8") if path.is_file() else new
    lines = differences(old, new)
    if lines:
        path.replace(folder / f"config.until_{env_steps}.gin")
    path.write_text(new, encoding="utf-8")
    return lines


def save_operative_config(folder: pathlib.Path) -> None:
    """Writes what has been used so far, defaults included."""
    (folder / OPERATIVE_CONFIG).write_text(gin_config.operative_config_text(), encoding="utf-8")


def where_bound(name: str) -> str:
    """The macro that a binding takes its value from, else `name` itself: what one sets to change it."""
    value = _bound(gin_config.config_text()).get(name, "")
    return value[1:] if value.startswith("%") else name


def differences(old: str, new: str) -> list[str]:
    """What differs between two texts of `gin_config.config_text`, a line for each binding."""
    before, after = _bound(old), _bound(new)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    lines = [f"{name}: {before.get(name, 'not set')} → {after.get(name, 'not set')}" for name in names]
    more = [f"and {len(lines) - MAX_DIFFERENCES} more"] if len(lines) > MAX_DIFFERENCES else []
    return lines[:MAX_DIFFERENCES] + more


def _bound(text: str) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
