"""MinAtar, whose sticky action outlives a seeded reset."""

import pytest
from environment_rows import collect, same

from alfish.environments.gymnasium_adapter import make_gymnasium

pytest.importorskip("minatar", reason='needs pip install "alfish[minatar]"')


def test_rows_follow_from_the_seed_alone():
    environment = make_gymnasium("MinAtar/Breakout-v1", 2)
    assert environment.observation_spec.shape == (10, 10, 4)
    rows = collect(environment, seed=3, steps=60)
    assert any(row.is_last().any() for row in rows)
    assert same(rows, collect(environment, seed=3, steps=60))
    environment.close()
