"""`train`: what it prints, keeps, continues and repeats."""

import errno
import os
import re

import pytest
import run_commands
from run_commands import CONFIG, checkpoints, run, train_here

from alfish.bin import run_folder, screens, train
from alfish.bin.config_differences import differences
from alfish.trainers.estimate import Estimate

SLOW = ("--gin_param=TOTAL_ENV_STEPS=1_000_000_000_000", "--gin_param=Trainer.checkpoint_interval=8")


def test_a_run_says_what_it_is_and_keeps_everything(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_here(folder, "--seed=7") == 0
    printed = capsys.readouterr().out
    for line in (
        r"algorithm  PPOAlgorithm, \d+ parameters",
        r"environment  2 × test/Walk-v0",
        r"device  cpu \(1 thread\)",
        r"seed  7",
        rf"run folder  {folder}",
        r"replay memory  none",
        rf"curves  tensorboard --logdir={folder}",
        r"time  about \d+ seconds",
        r"done: 2\d\d env steps; return \d\.\d ± \d\.\d",
    ):
        assert re.search(rf"^ *{line}", printed, re.MULTILINE), line
    names = {path.name for path in folder.iterdir()}
    assert {"config.gin", "operative_config.gin", "metrics.csv", "tensorboard", "checkpoints", "best"} <= names
    assert "keep_checkpoints = 2" in (folder / "operative_config.gin").read_text()
    assert "Trainer.seed = 7" in (folder / "config.gin").read_text()


def test_the_saved_config_alone_repeats_the_run(tmp_path):
    assert train_here(tmp_path / "first", "--seed=3", "--gin_param=Updater.learning_rate=0.02") == 0
    assert run(train, f"--gin_file={tmp_path}/first/config.gin", f"--root_dir={tmp_path}/second") == 0
    first, second = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("first", "second"))
    assert first == second
    assert train_here(tmp_path / "other", "--seed=4") == 0
    assert first != (tmp_path / "other" / "metrics.csv").read_bytes()


def test_a_run_that_stopped_early_goes_on_with_its_folder_alone(tmp_path, capsys):
    assert train_here(tmp_path / "whole", "--gin_param=Trainer.checkpoint_interval=64") == 0
    stop = "--stop_at_env_steps=64"
    assert train_here(tmp_path / "parts", "--gin_param=Trainer.checkpoint_interval=64", stop) == 0
    capsys.readouterr()
    assert run(train, f"--root_dir={tmp_path}/parts") == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ *resumed  at \d+ of 200 env steps", printed, re.MULTILINE)
    assert "differs" not in printed


def test_a_run_goes_on_without_its_replay_if_asked_to(tmp_path, capsys):
    muzero = [
        f"--root_dir={tmp_path}/run",
        "--gin_file=muzero_cartpole.gin",
        "--device=cpu",
        "--stop_at_env_steps=32",
        "--gin_param=Trainer.window_length=2",
        "--gin_param=MCTSAlgorithm.num_simulations=1",
    ]
    assert run(train, *muzero) == 0
    capsys.readouterr()
    other_size = "--gin_param=ReplayBuffer.capacity=4_000"
    assert run(train, *muzero, other_size) == 1
    assert re.search(r"capacity=5000.* give --drop_replay\n$", capsys.readouterr().err)
    assert run(train, *muzero, other_size, "--drop_replay") == 0
    printed = capsys.readouterr().out
    assert re.search(r"^ *resumed  at \d+ of 15,000 env steps\n *dropped  the stored rows", printed, re.MULTILINE)
    assert re.search(r"^ *replay memory  \d+\.\d kB when full", printed, re.MULTILINE)


def test_started_again_a_complete_run_says_so(tmp_path, capsys):
    assert train_here(tmp_path / "run") == 0
    before = (tmp_path / "run/metrics.csv").read_bytes()
    capsys.readouterr()
    assert train_here(tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert re.match(r"this run is complete: 2\d\d env steps", printed)
    assert "--gin_param=TOTAL_ENV_STEPS=4" in printed
    assert before == (tmp_path / "run/metrics.csv").read_bytes()


def test_a_longer_run_goes_on_and_says_what_differs(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_here(folder) == 0
    env_steps = int(checkpoints(folder)[-1].name)
    assert (
        run(train, f"--root_dir={folder}", "--gin_param=TOTAL_ENV_STEPS=300", "--gin_param=Trainer.summary_interval=77")
        == 0
    )
    printed = capsys.readouterr().out
    assert "The config differs" in printed
    assert "  TOTAL_ENV_STEPS: 200 → 300\n" in printed
    assert re.search(r"  Trainer\.summary_interval: .* → 77\n", printed)
    assert re.search(r"done: 30\d env steps", printed)
    assert "TOTAL_ENV_STEPS = 200" in (folder / f"config.until_{env_steps}.gin").read_text()
    assert "TOTAL_ENV_STEPS = 300" in (folder / "config.gin").read_text()


def test_a_full_disk_at_the_end_does_not_hide_the_result(tmp_path, capsys, caplog, monkeypatch):
    replace_file = run_folder.replace_file

    def no_room(path, data):
        if path.name == run_folder.OPERATIVE_CONFIG:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(path, data)

    monkeypatch.setattr(run_folder, "replace_file", no_room)
    assert train_here(tmp_path / "run") == 0
    assert re.search(r"^done: 2\d\d env steps; return", capsys.readouterr().out, re.MULTILINE)
    assert "operative_config.gin could not be written: No space left on device" in caplog.text


def test_everything_else_is_shown_before_the_time_is_measured(tmp_path, capsys, monkeypatch):
    shown = []

    def estimate(*_):
        shown.append(capsys.readouterr().out)
        return Estimate(0.0, 0.0, 90.0)

    monkeypatch.setattr(screens, "estimate_run_time", estimate)
    assert train_here(tmp_path / "run", "--stop_at_env_steps=8") == 0
    (before,) = shown
    assert before.endswith(f"curves  tensorboard --logdir={tmp_path}/run\n")
    assert capsys.readouterr().out.startswith(
        "          time  about 90 seconds for acting and updates until 200 env steps; environments add theirs\n\n"
    )


def test_differences_are_few_lines():
    assert differences("A = 1\nB = 2\n", "A = 1\nB = 2\n") == []
    assert differences("A = 1\n", "B = 2\n") == ["A: 1 → not set", "B: not set → 2"]
    many = "".join(f"A{i} = 1\n" for i in range(20))
    assert differences(many, "")[-1] == "and 12 more"


def test_a_dry_run_keeps_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(train, f"--gin_file={CONFIG}", "--dry_run", "--device=cpu") == 0
    printed = capsys.readouterr().out
    assert re.search(r"inputs\.observation +\[\d+, 1, 2\] float32", printed)
    assert re.search(r"parameters: \d+", printed)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_dry_run_keeps_no_mapped_rows(tmp_path, capsys, fails):
    config = tmp_path / "mapped.gin"
    config.write_text(
        "include 'muzero_cartpole.gin'\n"
        "import alfish.experience_replayers.storage\n"
        "ReplayBuffer.storage = @MappedStorage()\n"
        f"MappedStorage.folder = {str(tmp_path / 'rows')!r}\n"
        "Trainer.window_length = 2\n"
        "NUM_SIMULATIONS = 1\n" + fails * "FrameStack.num_frames = 2\n"
    )
    assert run(train, f"--gin_file={config}", "--dry_run", "--strict", "--device=cpu") == int(fails)
    captured = capsys.readouterr()
    assert "FrameStack.num_frames" in captured.err if fails else "nothing was kept" in captured.out
    assert os.listdir(tmp_path) == ["mapped.gin"]


def test_without_a_folder_a_run_gets_one_named_after_its_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(train, f"--gin_file={CONFIG}", "--device=cpu", "--stop_at_env_steps=1") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"walk-\d{8}-\d{6}", folder.name)


def test_a_long_run_without_a_gpu_says_what_to_try(tmp_path, capsys):
    assert train_here(tmp_path / "run", *SLOW, "--stop_at_env_steps=8") == 0
    printed = capsys.readouterr().out
    assert re.search(r"without one this run takes about \d+ days", printed)
    assert "--gin_file=muzero_cartpole.gin" in printed
    assert "continue with" in printed


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 seconds"), (150, "2 minutes"), (9_000, "2 hours"), (400_000, "5 days")]
)
def test_durations(seconds, text):
    assert screens.duration(seconds) == text


def test_help_shows_our_flags(capsys):
    for command in (run_commands.train, run_commands.evaluate, run_commands.play):
        with pytest.raises(SystemExit) as leave:
            run(command, "--help")
        assert leave.value.code == 0
        printed = capsys.readouterr().out
        assert printed.startswith(command.__doc__.splitlines()[0])
        assert "--root_dir RUN" in printed
        assert "--seed N" in printed
