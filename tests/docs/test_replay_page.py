"""The gin examples of docs/replay.md build buffers that work."""

import pathlib
import re

import numpy as np
import pytest
import torch

from alfish import gin_config, specs
from alfish.data_structures import Experience, RowsNeeded, time_step_spec
from alfish.experience_replayers.replay_buffer import ReplayBuffer

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "replay.md"
EXAMPLES = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
CONFIG = "import alfish.experience_replayers.replay_buffer\n{}ReplayBuffer.capacity = 100\n"


def test_all_examples_are_found():
    assert len(EXAMPLES) == PAGE.read_text().count("```") / 2 == 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.findall(r"ReplayBuffer\.(\w+)", text)[0])
def test_example(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gin_config.parse_text(CONFIG.format(example))
    spec = Experience(time_step_spec(specs.TensorSpec((3,)), specs.TensorSpec((), torch.int64)))
    replay = ReplayBuffer(spec=spec, num_envs=2, rows_needed=RowsNeeded(future=2))
    gin_config.report_unused(strict=True)
    replay.append(specs.zeros(spec, (5, 2)))
    batch = replay.sample(8, np.random.default_rng(0), fraction=0.5)
    replay.update_priorities(batch.rows, np.ones(8))
    assert batch.experience.time_step.observation.shape == (8, 1, 3)
