"""The environment of docs/adding_an_environment.md; tests/docs/test_tutorials.py has the page and the training."""

import pathlib
import sys

import gymnasium
import pytest
from environment_rows import collect, column, same
from gymnasium.utils.env_checker import check_env

from alfish.environments.gymnasium_adapter import make_gymnasium

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def catch_game(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "examples" / "environment")
    monkeypatch.delitem(sys.modules, "catch_game", raising=False)
    gymnasium.registry.pop("Catch-v0", None)
    return "catch_game:Catch-v0"


# The checker advises to make the environment by gymnasium.make, and to test rendering.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasiums_checker_is_content(catch_game):
    check_env(gymnasium.make(catch_game, disable_env_checker=True).unwrapped)


def test_rows_of_catch(catch_game):
    environment = make_gymnasium(catch_game, 4, env_kwargs={"rows": 4, "columns": 3})
    rows = collect(environment, seed=0, steps=40)
    assert environment.observation_spec.shape == (12,)
    assert environment.action_spec.num_values == 3
    assert column(rows, "step_type")[:5] == [0, 1, 1, 2, 0]
    assert column(rows, "discount")[:5] == [1, 1, 1, 0, 1]
    landed = [row.reward[row.is_last()] for row in rows]
    assert {value for rewards in landed for value in rewards.tolist()} == {-1.0, 1.0}
    assert all(row.reward[~row.is_last()].eq(0).all() for row in rows)
    assert same(rows, collect(environment, seed=0, steps=40))
