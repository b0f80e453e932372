"""Runs the commands as a user does: in this process, or in one of their own."""

import os
import pathlib
import subprocess
import sys
import time

from alfish.bin import command_line, evaluate, play, train

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONFIG = str(HERE / "walk.gin")
if str(HERE) not in sys.path:
    sys.path.append(str(HERE))


def run(command, *flags):
    return command_line.run(command.main, flags)


def train_here(root_dir, *flags):
    return run(train, f"--gin_file={CONFIG}", f"--root_dir={root_dir}", "--device=cpu", *flags)


def evaluate_here(*flags):
    return run(evaluate, *flags)


def play_here(*flags):
    return run(play, *flags)


def start(command, cwd, **streams):
    """Starts a command line (a list, or a string for the shell) in a process of its own."""
    path = os.pathsep.join(map(str, (ROOT, HERE)))
    return subprocess.Popen(
        command,
        shell=isinstance(command, str),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def start_training(root_dir, *flags):
    flags = (f"--gin_file={CONFIG}", f"--root_dir={root_dir}", "--device=cpu", *flags)
    return start([sys.executable, "-m", "alfish.bin.train", *flags], ROOT)


def wait_until(condition, process, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def checkpoints(root_dir):
    folder = pathlib.Path(root_dir) / "checkpoints"
    return sorted(path for path in folder.glob("0*") if path.name.isdecimal()) if folder.is_dir() else []
