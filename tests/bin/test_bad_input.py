"""Bad input: one clear last line, exit code 1, nothing left behind, no checkpoint lost."""

import importlib
import pathlib
import re
import sys

import pytest
from run_commands import CONFIG, checkpoints, evaluate_here, play_here, run, start, train_here

from alfish.bin import train
from alfish.rollout.worker_process import WorkerLost


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("param", "cause"),
    [
        ("Trainr.num_envs=2", "nothing configurable is called 'Trainr'; did you mean Trainer"),
        ("Trainer.num_env=2", "Trainer has no parameter 'num_env'; did you mean num_envs?"),
        ("TOTAL_ENV_STEP=2", "no binding uses the macro TOTAL_ENV_STEP; .* did you mean TOTAL_ENV_STEPS?"),
        ("Trainer.num_envs='two'", "Trainer.num_envs = 'two': expected int, got 'two' .str."),
        ("Updater.learning_rate='fast'", "Updater.learning_rate = 'fast': expected float"),
        ("Updater.learning_rate=fast", "'fast' is no value"),
        ("Updater.optimizer=@ActorCriticNetwork", "Updater.optimizer is ActorCriticNetwork, which takes no learning"),
        ("Experiment.algorithm=@ActorCriticNetwork", "Experiment.algorithm .*ActorCriticNetwork"),
        ("Updater.learning_rate=-1.0", "learning_rate.* -1.0"),
        ("Trainer.num_envs=0", "Trainer.num_envs is 0; it must be at least 1"),
        ("Trainer.num_envs=-2", "Trainer.num_envs is -2; it must be at least 1"),
        ("Trainer.window_length=0", "Trainer.window_length is 0; it must be at least 1"),
        ("TOTAL_ENV_STEPS=-5", "Trainer.total_env_steps is -5; it must be at least 1"),
        ("Trainer.checkpoint_interval=0", "Trainer.checkpoint_interval is 0; it must be at least 1"),
        ("OnPolicyBatches.mini_batch_size=0", "OnPolicyBatches.mini_batch_size is 0; it must be at least 1"),
        ("OnPolicyBatches.num_epochs=-1", "OnPolicyBatches.num_epochs is -1; it must be at least 1"),
        ("ActorCriticNetwork.hidden_sizes=(0,)", r"sizes \[2, 0, 2\]; expected sizes of at least 1"),
        ("Evaluator.episodes=0", "Evaluator.episodes is 0; it must be at least 1"),
        ("PPOAlgorithm.discount=1.5", "discount.* 1.5"),
        ("TOTAL_ENV_STEPS=%gin.REQUIRED", "TOTAL_ENV_STEPS must be set; add "),
        ("Trainer.batch_source=%gin.REQUIRED", "Trainer.batch_source must be set; add "),
        ("make_gymnasium.name='CartPol-v1'", "no environment 'CartPol-v1' is registered .* did you mean 'CartPole-v"),
        ("make_gymnasium.env_kwargs={'falt': 'nan'}", "env_kwargs has 'falt'.* did you mean 'fault'?"),
        ("Trainer.seed=-1", "seed is -1; it must be a whole number of at least 0"),
    ],
)
def test_a_bad_binding(tmp_path, capsys, param, cause):
    assert train_here(tmp_path / "run", f"--gin_param={param}") == 1
    assert re.search(f"^error: .*{cause.replace('?', '[?]')}", last_line(capsys))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (
            ["--gin_file=muzero_cartpol.gin"],
            "there is no file 'muzero_cartpol.gin' .* did you mean muzero_cartpole.gin",
        ),
        ([], "no config: give --gin_file=FILE"),
        (["--root_dir=nowhere"], "--root_dir=nowhere holds no run: nowhere/config.gin is missing"),
        ([f"--gin_file={CONFIG}", "walk.gin"], "unexpected argument 'walk.gin'; every setting is a flag"),
        ([f"--gin_fil={CONFIG}"], "there is no flag --gin_fil; did you mean --gin_file?"),
        ([f"--gin_file={CONFIG}", "--seed=one"], "--seed: 'one' cannot be used; expected a whole number of at least 0"),
        ([f"--gin_file={CONFIG}", "--seed=-1"], "--seed: '-1' cannot be used"),
        ([f"--gin_file={CONFIG}", "--stop_at_env_steps=0"], "--stop_at_env_steps: '0' cannot be used"),
        ([f"--gin_file={CONFIG}", "--device=gpu"], "--device is 'gpu'; expected 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ([f"--gin_file={CONFIG}", "--device=meta"], "--device is 'meta'; expected 'auto'"),
        ([f"--gin_file={CONFIG}", "--device=cuda:99"], "--device is 'cuda:99', which is not there: torch finds . GPUs"),
    ],
)
def test_a_bad_command_line(tmp_path, capsys, monkeypatch, flags, cause):
    monkeypatch.chdir(tmp_path)
    assert run(train, *flags) == 1
    assert re.search(f"^error: .*{cause.replace('?', '[?]')}", last_line(capsys))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_include(tmp_path, capsys):
    file = tmp_path / "mine.gin"
    file.write_text("include 'shared/gone.gin'\n")
    assert run(train, f"--gin_file={file}", f"--root_dir={tmp_path}/run") == 1
    assert re.match(r"error: .*mine\.gin:1: there is no file 'shared/gone\.gin'", last_line(capsys))
    assert not (tmp_path / "run").exists()


def test_an_unused_binding_is_an_error_when_strict(tmp_path, capsys):
    unused = "--gin_param=BackgroundEngine.max_staleness=4"
    assert train_here(tmp_path / "run", unused, "--strict") == 1
    assert "had no effect; correct or remove them: BackgroundEngine.max_staleness" in last_line(capsys)
    assert not (tmp_path / "run").exists()
    assert train_here(tmp_path / "run", unused) == 0


@pytest.mark.parametrize(
    ("package", "extra", "param"),
    [
        ("ale_py", "atari", "make_gymnasium.name='ALE/Pong-v5'"),
        ("Box2D", "box2d", "make_gymnasium.name='LunarLander-v3'"),
    ],
)
def test_a_missing_extra_names_the_pip_line(tmp_path, capsys, monkeypatch, package, extra, param):
    for module in [package, *[name for name in sys.modules if name.startswith(f"{package}.")]]:
        monkeypatch.setitem(sys.modules, module, None)
    assert train_here(tmp_path / "run", f"--gin_param={param}") == 1
    assert last_line(capsys).endswith(f'is not installed; install it with: pip install "alfish[{extra}]"')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("raises", "step raised KeyError: 'the motor is off'"),
        ("shape", r"observation has the shape \(3,\); expected \(2,\)"),
        ("nan", r"observation\[1\] is nan; expected a finite float32"),
    ],
)
def test_an_environment_that_breaks(tmp_path, capsys, fault, cause):
    assert train_here(tmp_path, f"--gin_param=make_gymnasium.env_kwargs={{'fault': '{fault}'}}") == 1
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert re.match(rf"error: 'test/Walk-v0', environment 0 of 0…1, episode 1, step 3: {cause}", last)
    assert error.startswith("Traceback") == (fault == "raises")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_traceback_of_an_environment_that_raises_stands_above_the_error(tmp_path, capsys, vectorization):
    fault = "--gin_param=make_gymnasium.env_kwargs={'fault': 'raises'}"
    assert train_here(tmp_path, fault, f"--gin_param=make_gymnasium.vectorization='{vectorization}'") == 1
    first, *lines, cause, last = capsys.readouterr().err.strip().splitlines()
    assert first == "Traceback (most recent call last):"
    assert any(re.search(r"walk_environment\.py\", line \d+, in step", line) for line in lines)
    assert cause == "KeyError: 'the motor is off'"
    assert last.startswith("error: 'test/Walk-v0', environment 0 of 0…1, episode 1, step 3: step raised KeyError")


@pytest.fixture
def stopped_run(tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_here(folder, "--stop_at_env_steps=150") == 0
    assert len(checkpoints(folder)) == 2
    capsys.readouterr()
    return folder


def test_a_checkpoint_that_is_cut_short(stopped_run, capsys, caplog):
    older, newest = checkpoints(stopped_run)
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[:100])
    assert train_here(stopped_run) == 0
    (warning,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert str(newest) in warning
    assert "state.pt" in warning
    assert "bytes" in warning
    assert f"resumed  at {int(older.name)} of 200" in capsys.readouterr().out
    assert (newest.with_name(f"{newest.name}.bad") / "state.pt").stat().st_size == 100


def test_no_checkpoint_that_is_whole(stopped_run, capsys):
    for folder in checkpoints(stopped_run):
        (folder / "manifest.json").write_text("")
    assert train_here(stopped_run) == 1
    assert re.match(r"error: no checkpoint in .* can be loaded: .*begin a new run in another folder", last_line(capsys))


def test_a_network_of_another_shape(stopped_run, capsys, monkeypatch):
    before = {path: path.read_bytes() for path in stopped_run.rglob("*") if path.is_file()}
    walk = importlib.import_module("walk_environment").Walk
    monkeypatch.setattr(walk, "reset", lambda *_, **__: pytest.fail("an environment was started"))
    assert train_here(stopped_run, "--gin_param=ActorCriticNetwork.hidden_sizes=(6,)") == 1
    error = capsys.readouterr().err
    assert re.search(r"^  key +expected +in the file$", error, re.MULTILINE)
    assert re.search(r"^  algorithm: policy\.network\.\S+weight +\(6, 2\) +\(4, 2\)$", error, re.MULTILINE)
    assert re.match(r"error: the checkpoint .* does not fit this run: Nothing was loaded", error.splitlines()[-1])
    assert before == {path: path.read_bytes() for path in stopped_run.rglob("*") if path.is_file()}


def test_a_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/run"):
        assert train_here(tmp_path / folder) == 1
        assert "is a file; give another folder" in last_line(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_error_of_our_own_shows_its_traceback(tmp_path, capsys, monkeypatch):
    def broken(arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(train, "main", broken)
    assert run(train) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("\nerror: RuntimeError: out of memory\n")


def test_a_lost_worker_is_one_line(tmp_path, capsys, monkeypatch):
    def broken(arguments):
        raise WorkerLost("worker 0 was killed")

    monkeypatch.setattr(train, "main", broken)
    assert run(train) == 1
    assert capsys.readouterr().err == "error: worker 0 was killed\n"


@pytest.mark.parametrize("command", [evaluate_here, play_here])
def test_no_run_to_look_at(tmp_path, capsys, command):
    video = [] if command is evaluate_here else [f"--video={tmp_path}/a.gif"]
    assert command(*video) == 1
    assert "--root_dir" in last_line(capsys)
    assert command(f"--root_dir={tmp_path}", *video) == 1
    assert "holds no run" in last_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_real_command(tmp_path: pathlib.Path):
    process = start([sys.executable, "-m", "alfish.bin.train", "--gin_file=muzero_cartpol.gin"], tmp_path)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert re.fullmatch(r"error: there is no file .* did you mean muzero_cartpole\.gin.*\n", error)
    assert list(tmp_path.iterdir()) == []
