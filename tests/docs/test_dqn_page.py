"""The configs in docs/algorithms/dqn.md train, and the page's tables name the settings that there are."""

import csv
import inspect
import pathlib
import re

import pytest

from alfish.algorithms.dqn_algorithm import DQNAlgorithm
from alfish.bin import command_line, train
from alfish.networks.q_network import DuellingQNetwork, QNetwork

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "algorithms" / "dqn.md").read_text()
EXAMPLES = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SMALL = {
    "TOTAL_ENV_STEPS": 192,
    "WINDOW_LENGTH": 32,
    "NUM_ENVS": 2,
    "ReplayBatches.initial_env_steps": 128,
    "ReplayBatches.batch_size": 4,
    "Trainer.summary_interval": 64,
    "Evaluator.episodes": 1,
}


def test_all_examples_are_found():
    assert len(EXAMPLES) == PAGE.count("```") / 2 == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.findall(r"DQNAlgorithm\.(\w+)", text)[0])
def test_example(example, tmp_path):
    config = tmp_path / "example.gin"
    config.write_text(example)
    flags = [f"--gin_file={config}", f"--root_dir={tmp_path / 'run'}", "--device=cpu"]
    params = [f"--gin_param={name}={value}" for name, value in SMALL.items()]
    assert command_line.run(train.main, [*flags, *params]) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        reported = {row["metric"] for row in csv.DictReader(file)}
    assert {"q_value", "target", "absolute_td_error", "epsilon", "loss"} <= reported


@pytest.mark.parametrize("configurable", [DQNAlgorithm, QNetwork, DuellingQNetwork])
def test_every_option_is_in_its_table(configurable):
    table = PAGE.split(f"| option of `{configurable.__name__}` |")[1].split("\n\n")[0]
    given = [name for name in inspect.signature(configurable).parameters if not name.endswith("_spec")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == given
