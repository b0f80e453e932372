"""The parts of benchmarks/ that do not measure: how output is read, and how results are summed up."""

import argparse
import pathlib
import re
import runpy
import sys
import threading
import types

import gin
import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from alfish import gin_config
from alfish.data_structures import Progress
from alfish.summary.console_writer import ConsoleWriter
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """A function that runs a script without its `main` and returns what it defines."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(**runpy.run_path(str(FOLDER / f"{name}.py"), run_name=name))

    yield run
    for name in ("common", "trainings"):
        sys.modules.pop(name, None)


def test_what_the_console_writer_prints_is_read_back(load, capsys):
    common = load("common")
    writer = ConsoleWriter(15_000, sys.stdout)
    writer.write(Progress(10, 1_234, 5, 0.1), {"loss": 0.5}, {"time/env_steps_per_second": 100.0})
    writer.write(Progress(10, 1_234, 5, 0.1), {"evaluation/return": 12.5}, {})
    texts = ["     seed  0", *capsys.readouterr().out.splitlines(), "done: 1,234 env steps"]
    lines = [common.Line(float(number), number / 2, text) for number, text in enumerate(texts)]
    assert list(common.summaries(lines)) == [
        common.Summary(1.0, 0.5, 1_234, False),
        common.Summary(2.0, 1.0, 1_234, True),
    ]
    assert common.last_line_before_training(lines).text == "     seed  0"


def test_an_evaluation_that_the_console_writer_printed_is_found(load, capsys):
    pattern = load("time_to_threshold")._EVALUATION
    writer = ConsoleWriter(15_000, sys.stdout)
    writer.write(Progress(10, 1_234, 5, 0.1), {"loss": 0.5}, {"time/env_steps_per_second": 100.0})
    writer.write(Progress(10, 1_234, 5, 0.1), {"evaluation/return": -12.5}, {})
    training, evaluation = capsys.readouterr().out.splitlines()
    assert pattern.match(training) is None
    assert pattern.match(evaluation).groups() == ("1,234", "-12.5")


def test_the_interquartile_mean_leaves_out_a_quarter_at_both_ends(load):
    common = load("common")
    assert common.interquartile_mean([100.0, 1.0, 2.0, 3.0, -50.0]) == 2.0
    assert common.interquartile_mean([1.0, 3.0]) == 2.0
    low, high = common.bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert 1.0 <= low < 3.0 < high <= 5.0
    assert common.bootstrap_interval([7.0]) == (7.0, 7.0)


def test_a_table_has_a_line_for_each_row(load):
    table = load("common").markdown_table(
        [{"seed": 0, "pass": True, "rate": 1234.56}, {"seed": 1, "pass": False, "rate": None}]
    )
    assert table.splitlines() == [
        "| seed | pass | rate |",
        "| --: | --- | --: |",
        "| 0 | yes | 1,234.6 |",
        "| 1 | no | – |",
    ]


def test_a_command_is_killed_when_told(load):
    common = load("common")
    script = "import time; print('first'); print('second'); time.sleep(60)"
    finished = common.run([sys.executable, "-c", script], until=lambda line: line.text == "second")
    assert [line.text for line in finished.lines] == ["first", "second"]
    assert finished.return_code == -9


def test_a_command_that_fails_ends_the_benchmark_with_its_output(load):
    common = load("common")
    with pytest.raises(SystemExit, match=re.compile("what went wrong.*exited with the code 3", re.DOTALL)):
        common.run([sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"])


def test_what_a_seed_may_take_beyond_the_limit_is_said(load, tmp_path):
    learning, trainings = load("learning"), load("trainings")
    rows = [(1, 40), (1, 40), (3, 161), (4, 200)]
    (tmp_path / "metrics.csv").write_text(
        "iteration,env_steps,updates,metric,value\n" + "".join(f"{i},{steps},0,loss,1.0\n" for i, steps in rows)
    )
    allowance = trainings.overshoot(tmp_path)
    assert allowance == 60  # an iteration of 61 steps that begins one step before the limit
    arguments = argparse.Namespace(threshold=475.0, env_steps=15_000, seconds=None, episodes=20)
    row = {"pass": True, "fresh episodes": 500.0, "final evaluation": 500.0}
    note = learning._notes([row], allowance, arguments)[0]
    assert note.endswith("475 within 15,000 env steps (and up to 60 more, to the end of an iteration)")


def test_what_a_variant_reached_is_summed_up_over_its_seeds(load):
    ablations, trainings = load("ablations"), load("trainings")

    def training(seed, *means):
        points = [trainings.Point(1_000 * (i + 1), mean, 10.0 * (i + 1)) for i, mean in enumerate(means)]
        return trainings.Training(seed, points, 1_000 * len(means), 30.0 + seed)

    runs = [training(0, 10.0, 480.0, 500.0), training(1, 10.0, 20.0, 30.0), training(2, 490.0, 400.0, 100.0)]
    assert ablations.run_row("all", runs[0], 475.0) == {
        "variant": "all",
        "seed": 0,
        "env steps to threshold": 2_000,
        "final evaluation": 500.0,
        "mean evaluation": 330.0,
        "env steps": 3_000,
        "seconds": 30.0,
    }
    row = ablations.variant_row("all", runs, 475.0)
    assert (row["reached"], row["env steps to threshold"], row["seconds"]) == ("2 of 3", 2_000, 31.0)
    assert row["final evaluation"].startswith("210.0 (")  # of three runs, no quarter can be left out
    assert ablations.variant_row("all", [runs[1], runs[1], runs[0]], 475.0)["env steps to threshold"] is None


def test_variants_are_read_from_the_command_line(load):
    ablations = load("ablations")
    variant = ablations.parse_variant("no reward: A.weight = 0; B.name = 'x:y' ;")
    assert variant == ablations.Variant("no reward", ("A.weight = 0", "B.name = 'x:y'"))
    assert ablations.parse_variant("as it is") == ablations.Variant("as it is")
    assert ablations.folder_name(ablations.Variant("ratio 0.5, λ"), 3) == "ratio_0.5/seed3"


def test_the_variants_of_a_suite_are_told_apart(load):
    ablations = load("ablations")
    for suite in ablations.SUITES.values():
        for part in ("name", "folder"):
            names = [v.name if part == "name" else ablations.folder_name(v, 0) for v in suite.variants]
            assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["losses", "reanalysis", "latent"])
def test_every_variant_of_a_suite_can_be_built(load, name):
    suite = load("ablations").SUITES[name]
    for variant in suite.variants:
        gin.clear_config()
        gin_config.parse([variant.gin_file or suite.gin_file], list(variant.params))
        Trainer(Experiment(), torch.device("cpu")).close()


def test_trainings_run_as_many_at_a_time_as_told(load):
    trainings = load("trainings")
    meeting = threading.Barrier(2)

    def pair(number):
        meeting.wait(timeout=30)  # breaks unless two run at a time
        return number

    assert sorted(trainings.as_they_come(pair, range(4), 2)) == [0, 1, 2, 3]


def test_states_are_compared_bit_by_bit(load):
    resume = load("resume")

    def same(one, other) -> bool:
        return resume.equal(dict(resume.flat(one, ())), dict(resume.flat(other, ())))

    state = {"weights": [torch.tensor([1.0, torch.nan])], "count": 3, "nothing": {}}
    assert same(state, {"weights": [torch.tensor([1.0, torch.nan])], "count": 3, "nothing": {}})
    assert not same(state, state | {"weights": [torch.tensor([1.0, 2.0])]})
    assert not same(state, state | {"weights": [torch.tensor([1.0, torch.nan], dtype=torch.float64)]})
    assert not same(state, state | {"count": 3.0})
    assert not same(state, state | {"nothing": []})
    assert not same({"zero": torch.tensor(0.0)}, {"zero": torch.tensor(-0.0)})
    assert not same(state, {"count": 3, "nothing": {}})


def test_the_mean_curve_spans_what_all_runs_have(load):
    curves = [np.array([[0.0, 0.0], [10.0, 10.0]]), np.array([[5.0, 1.0], [20.0, 4.0]])]
    steps, mean = load("plot_curves").mean_curve(curves)
    assert steps.tolist() == [5.0, 10.0]
    assert mean.tolist() == [3.0, 6.0]


def test_seconds_of_phases_are_read_from_the_curves_of_a_run(load, tmp_path):
    with SummaryWriter(str(tmp_path / "tensorboard")) as curves:
        for env_steps, rate, share in ((100, 50.0, 0.5), (160, 20.0, 0.25)):
            curves.add_scalar("time/env_steps_per_second", rate, env_steps)
            curves.add_scalar("time/update", share, env_steps)
    (tmp_path / "metrics.csv").write_text(
        "iteration,env_steps,updates,metric,value\n1,100,10,loss,0.5\n2,160,16,loss,0.5\n", encoding="utf-8"
    )
    assert load("update_cost").phase_seconds(tmp_path) == [
        {"update": 1.0, "seconds": 2.0, "updates": 10},
        {"update": 0.75, "seconds": 3.0, "updates": 6},
    ]


def test_every_benchmark_of_make_bench_is_there():
    makefile = (FOLDER.parent / "Makefile").read_text(encoding="utf-8")
    names = re.search(r"^BENCH \?= (.*)$", makefile, re.MULTILINE)[1].split()
    assert names
    assert [name for name in names if not (FOLDER / f"{name}.py").is_file()] == []
