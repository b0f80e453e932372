"""Signals and kills: what they leave, and that the run goes on from there."""

import os
import signal
import subprocess
import sys

import pytest
from run_commands import checkpoints, evaluate_here, start, start_training, train_here, wait_until

from alfish.bin import interruption

ENDLESS = "--gin_param=TOTAL_ENV_STEPS=1_000_000_000"


def metrics_exist(folder):
    return (folder / "metrics.csv").is_file() and (folder / "metrics.csv").stat().st_size > 0


@pytest.fixture
def started():
    """Starts training runs; none outlives the test."""
    processes = []

    def start_one(*arguments):
        processes.append(start_training(*arguments))
        return processes[-1]

    yield start_one
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ctrl_c_saves_and_prints_the_command_that_goes_on(tmp_path, capsys, started):
    folder = tmp_path / "a run's folder"
    never = ("checkpoint_interval", "evaluation_interval")
    process = started(folder, ENDLESS, *(f"--gin_param=Trainer.{each}=1_000_000_000" for each in never))
    wait_until(lambda: metrics_exist(folder), process)

    assert train_here(folder) == 1  # meanwhile, from here
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"error: another process is training in {folder}; stop it or give another --root_dir"
    assert checkpoints(folder) == []

    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == "\nSIGINT: saving, then stopping; once more leaves at once\n"
    (checkpoint,) = checkpoints(folder)
    message, command = out.strip().splitlines()[-2:]
    assert message == f"saved at {int(checkpoint.name):,} of 1,000,000,000 env steps; continue with"

    assert evaluate_here(f"--root_dir={folder}", "--episodes=1", "--device=cpu") == 0
    assert "it has not evaluated yet" in capsys.readouterr().out

    more = f"--gin_param=TOTAL_ENV_STEPS={int(checkpoint.name) + 50}"
    process = start(f"{command} {more}", tmp_path)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert f"resumed  at {int(checkpoint.name):,} of" in out
    assert "done: " in out


def test_a_second_ctrl_c_leaves_at_once(tmp_path, started):
    # The first one waits for the end of a window that takes minutes.
    slow = "--gin_param=make_gymnasium.env_kwargs={'seconds': 0.05}", "--gin_param=Trainer.window_length=2000"
    process = started(tmp_path / "run", ENDLESS, *slow)
    wait_until((tmp_path / "run/operative_config.gin").is_file, process)
    process.send_signal(signal.SIGINT)
    assert os.read(process.stderr.fileno(), 1000) == b"\nSIGINT: saving, then stopping; once more leaves at once\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.wait(timeout=5)
    assert process.returncode == -signal.SIGINT
    assert checkpoints(tmp_path / "run") == []


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, started):
    params = "TOTAL_ENV_STEPS=3000", "Trainer.checkpoint_interval=500", "Trainer.evaluation_interval=1000"
    settings = [f"--gin_param={param}" for param in params]
    process = started(tmp_path / "killed", *settings)
    wait_until(lambda: len(checkpoints(tmp_path / "killed")) == 2, process)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert train_here(tmp_path / "killed", *settings) == 0
    assert train_here(tmp_path / "whole", *settings) == 0
    killed, whole = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("killed", "whole"))
    assert killed == whole


def test_the_first_signal_asks_and_handlers_are_restored():
    asked = []
    before = signal.getsignal(signal.SIGTERM)
    with interruption.stopping(lambda: asked.append(True)) as stopped:
        assert stopped.signal_number is None
        signal.raise_signal(signal.SIGTERM)
        assert stopped.signal_number == signal.SIGTERM
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert asked == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_warning_wipes_the_line_of_progress_on_a_terminal(tmp_path):
    warn = "logging.warning('careful') or 0"
    script = f"from absl import logging\nfrom alfish.bin import command_line\ncommand_line.run(lambda _: {warn}, [])"
    ours, terminal = os.openpty()
    try:
        process = start([sys.executable, "-c", script], tmp_path, stderr=terminal)
        assert process.wait(timeout=60) == 0
        assert os.read(ours, 1000) == b"\r\x1b[Kwarning: careful\r\n"
    finally:
        process.communicate()
        os.close(ours)
        os.close(terminal)
    process = start([sys.executable, "-c", script], tmp_path)
    assert process.communicate(timeout=60)[1] == "warning: careful\n"


def test_a_printed_command_can_be_typed():
    folder = "it's here"
    command = interruption.command("train", root_dir=folder, device="cpu")
    arguments = subprocess.run(
        command.replace("-m alfish.bin.train", "-c 'import sys; print(sys.argv[1:])'"),
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert arguments == f"{['--root_dir=' + folder, '--device=cpu']}\n"
    assert command.startswith(("python ", sys.executable))
