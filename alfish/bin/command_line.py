"""What all command lines share: devices, run folders, and errors that end with one clear line."""

import contextlib
import fcntl
import pathlib
import sys
import traceback
from collections.abc import Callable, Iterator

import torch
from absl import app, flags, logging

from alfish import gin_config

CONFIG_NAME = "config.gin"
USER_ERRORS = (ValueError, FileNotFoundError, ImportError, OSError)


def run_main(main: Callable[[], int]) -> None:
    """Runs a command; an error becomes one last line on standard error and the exit code 1.

    What a user can mend (a ValueError, a missing file or package) is shown without a traceback; `--traceback` shows it.
    """

    def guarded(arguments: list[str]) -> None:
        logging.use_absl_handler()
        logging.set_stderrthreshold("warning")
        try:
            if len(arguments) > 1:
                raise ValueError(f"unexpected argument {arguments[1]!r}; every setting is a flag, see --helpfull")
            with gin_config.errors_readable():
                code = main()
        except Exception as error:
            if flags.FLAGS.traceback or not isinstance(error, USER_ERRORS):
                traceback.print_exception(error)
            else:
                for note in getattr(error, "__notes__", []):
                    print(note, file=sys.stderr)
            _print_error(error)
            code = 1
        sys.exit(code)

    app.run(guarded)


def _print_error(error: Exception) -> None:
    first, *between = str(error).splitlines() or [type(error).__name__]
    last = between.pop() if between else ""
    for line in between:
        print(line, file=sys.stderr)
    print(f"error: {first} {last}".rstrip(), file=sys.stderr)


flags.DEFINE_bool("traceback", False, "Show the traceback of every error, also of those that a setting mends.")


def select_device(name: str) -> torch.device:
    """The device of a `--device` flag; `auto` takes the GPU if there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device={name} cannot be used here ({error}); try --device=cpu") from error
    return device


def load_run_config(root_dir: str) -> pathlib.Path:
    """Parses the config that a run saved, and returns the run's folder.

    Raises:
        ValueError: the folder holds no run.
    """
    folder = pathlib.Path(root_dir)
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"--root_dir={root_dir} holds no run: {path} is missing; give the folder that train printed")
    gin_config.parse_text(path.read_text(encoding="utf-8"))
    return folder


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps two processes from training in one folder.

    Raises:
        ValueError: another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {folder}; stop it or give another --root_dir") from None
        yield


def best_weights(folder: pathlib.Path) -> pathlib.Path:
    """The file with the best weights of a run.

    Raises:
        ValueError: the run has not been evaluated yet.
    """
    path = folder / "best" / "weights.pt"
    if not path.is_file():
        raise ValueError(f"{path} is missing: the run has not evaluated yet; let it train on, or to its end")
    return path
