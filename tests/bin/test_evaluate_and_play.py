"""`evaluate` and `play` on a run that was trained here."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from run_commands import checkpoints, evaluate_here, play_here, train_here

from alfish import gin_config, specs
from alfish.bin.video import Video
from alfish.data_structures import time_step_spec
from alfish.environments.gymnasium_adapter import make_gymnasium


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train_here(folder) == 0
    return folder


class FakeWindow:
    """Takes frames like a Window; `limit` closes it."""

    frames: list[np.ndarray] = []
    episodes: list[int] = []
    limit = 1000

    def begin_episode(self, number, frames_per_second):
        assert frames_per_second == 20
        self.episodes.append(number)

    def show(self, frame):
        self.frames.append(frame)
        return len(self.frames) < self.limit

    def close(self):
        self.episodes.append(-1)


@pytest.fixture
def window(monkeypatch):
    monkeypatch.setattr(FakeWindow, "frames", [])
    monkeypatch.setattr(FakeWindow, "episodes", [])
    monkeypatch.setattr("alfish.bin.play.Window", FakeWindow)
    return FakeWindow


def test_evaluate_prints_every_return(folder, capsys):
    assert evaluate_here(f"--root_dir={folder}") == 0
    printed = capsys.readouterr().out
    assert f"test/Walk-v0: the best weights of {folder}" in printed
    returns = [float(found) for found in re.findall(r"^episode +\d+: return (\S+), 5 steps$", printed, re.MULTILINE)]
    assert len(returns) == 20
    last = printed.splitlines()[-1]
    assert last == f"mean {np.mean(returns):.2f}, deviation {np.std(returns):.2f} over 20 episodes"


def test_evaluate_follows_its_seed(folder, capsys):
    printed = []
    for flags in (["--seed=1"], ["--seed=1"], ["--seed=1", "--episodes=2"]):
        assert evaluate_here(f"--root_dir={folder}", "--device=cpu", *flags) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "over 2 episodes" in printed[2]


def test_evaluate_leaves_the_run_as_it_is(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert evaluate_here(f"--root_dir={folder}", "--episodes=1") == 0
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("flag", ["--episodes=0", "--episodes=x", "--seed=-1", "--root_dri=x", "extra"])
def test_bad_flags(folder, capsys, flag):
    for command in (evaluate_here, play_here):
        assert command(f"--root_dir={folder}", "--video=x.gif" if command is play_here else "--episodes=1", flag) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_damaged_weights(folder, capsys, tmp_path):
    weights = folder / "best/weights.pt"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    try:
        assert evaluate_here(f"--root_dir={folder}") == 1
        assert str(weights) in capsys.readouterr().err.splitlines()[-1]
    finally:
        weights.write_bytes(content)


def test_a_run_without_any_weights(tmp_path, capsys):
    assert train_here(tmp_path, "--stop_at_env_steps=8") == 0
    for checkpoint in checkpoints(tmp_path):
        checkpoint.rename(tmp_path / "elsewhere")
    assert evaluate_here(f"--root_dir={tmp_path}") == 1
    assert "holds no weights: the run was stopped before" in capsys.readouterr().err


def test_play_shows_whole_episodes(folder, window, capsys):
    assert play_here(f"--root_dir={folder}", "--episodes=2") == 0
    assert window.episodes == [1, 2, -1]
    assert [frame[0, 0, 0] for frame in window.frames] == [0, 40, 80, 120, 160, 200] * 2
    assert re.search(r"episode +2: return \d\.00, 5 steps", capsys.readouterr().out)


def test_play_ends_when_the_window_is_closed(folder, window, monkeypatch, capsys):
    monkeypatch.setattr(window, "limit", 3)
    assert play_here(f"--root_dir={folder}") == 0
    assert len(window.frames) == 3
    assert "episode" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "videos"])
def test_play_records(folder, tmp_path, capsys, name):
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    assert play_here(f"--root_dir={folder}", f"--video={tmp_path / name}", "--episodes=2") == 0
    files = [tmp_path / name] if "." in name else sorted((tmp_path / name).iterdir())
    assert len(files) == (1 if "." in name else 2)
    printed = capsys.readouterr().out
    for file in files:
        assert f"recorded {file}" in printed
        decode = [ffmpeg, "-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        content = subprocess.run(decode, capture_output=True, check=True).stdout
        frames = np.frombuffer(content, np.uint8).reshape(12 // len(files), 42, 62, 3)
        assert np.abs(frames[5].astype(int) - 200).max() < 10


def test_a_video_of_another_kind_is_refused(tmp_path, folder, capsys):
    assert play_here(f"--root_dir={folder}", f"--video={tmp_path}/a.avi") == 1
    assert "expected a name that ends with .mp4 or .gif, or a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "flag"), [("imageio_ffmpeg", "--video=a.mp4"), ("pygame", "--episodes=1")])
def test_the_extra_is_missing(folder, capsys, monkeypatch, package, flag):
    monkeypatch.setitem(sys.modules, package, None)
    assert play_here(f"--root_dir={folder}", flag) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f'error: the package {package!r} is not installed; install it with: pip install "alfish[video]"'


def test_no_display(folder, capsys, monkeypatch):
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert play_here(f"--root_dir={folder}") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: there is no display to open a window on; record a video: --video=FILE.mp4"


def test_the_window_itself(folder, monkeypatch, capsys):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert play_here(f"--root_dir={folder}") == 0
    assert "5 steps" in capsys.readouterr().out


def test_render_of_environments():
    gin_config.parse([])
    environment = make_gymnasium("walk_environment:test/Walk-v0", num_envs=2, render_mode="rgb_array")
    row = specs.zeros(time_step_spec(environment.observation_spec, environment.action_spec), (2,))
    environment.reset(0, row)
    environment.step(torch.zeros(2, dtype=torch.int64), row)
    assert environment.render().shape == (41, 61, 3)
    assert environment.render()[0, 0, 0] == 40
    environment.close()
    environment = make_gymnasium("walk_environment:test/Walk-v0", num_envs=2)
    environment.reset(0, row)
    with pytest.raises(ValueError, match="expected uint8 .H, W, 3., with render_mode='rgb_array'"):
        environment.render()
    environment.close()
    with pytest.raises(ValueError, match=r"cannot be rendered: its metadata\['render_modes'\] is \['rgb_array'\]"):
        make_gymnasium("walk_environment:test/Walk-v0", num_envs=1, render_mode="ansi")


def test_video_paths(tmp_path: pathlib.Path):
    pytest.importorskip("imageio_ffmpeg")
    (tmp_path / "with.dot").mkdir()
    assert Video(tmp_path / "with.dot").files == []
