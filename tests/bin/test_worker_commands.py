"""The command that trains, with worker processes for collecting and for evaluation."""

import csv

import run_commands

ELSEWHERE = (
    "--gin_file=background_engine.gin",
    "--gin_param=BackgroundEngine.max_staleness=0",
    "--gin_file=evaluation_process.gin",
)


def read(folder):
    """The table of metrics, without those of engines; evaluations come when they are done."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    return sorted(row for row in rows if not row[3].startswith("engine/"))


def test_a_run_elsewhere_is_the_run_here(tmp_path, capsys):
    assert run_commands.train_here(tmp_path / "here") == 0
    assert run_commands.train_here(tmp_path / "there", *ELSEWHERE, "--stop_at_env_steps=100", "--strict") == 0
    assert run_commands.train_here(tmp_path / "there", *ELSEWHERE) == 0
    assert read(tmp_path / "here") == read(tmp_path / "there")
    assert "2 × test/Walk-v0" in capsys.readouterr().out
    weights = [(tmp_path / name / "best/weights.pt").read_bytes() for name in ("here", "there")]
    assert weights[0] == weights[1]
    assert run_commands.evaluate_here(f"--root_dir={tmp_path / 'there'}", "--episodes=1") == 0


def test_a_parameter_alone_names_what_runs_elsewhere(tmp_path, capsys):
    params = ["Trainer.engine=@MultiProcessEngine", "Trainer.evaluation=@EvaluationProcess"]
    params += ["MultiProcessEngine.num_workers=2", "MultiProcessEngine.max_staleness=0"]
    flags = [f"--gin_param={param}" for param in params]
    assert run_commands.train_here(tmp_path / "run", *flags, "--stop_at_env_steps=20") == 0
    assert "saved at" in capsys.readouterr().out


def test_a_dry_run_tries_the_workers(tmp_path, capsys):
    assert run_commands.train_here(tmp_path / "run", *ELSEWHERE, "--dry_run") == 0
    assert "everything was built and run" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
