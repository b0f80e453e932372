"""The programs of docs/simulators.md run, one after the other, and print what the page says."""

import pathlib
import re

import pytest

from alfish.mcts.hindsight import future_means

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "simulators.md"


@pytest.fixture(scope="module")
def page():
    """What the programs leave behind, and what they print."""
    lines, names = [], {"print": lambda *values: lines.append(values)}
    for program in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(program, str(PAGE), "exec"), names)
    return names, {line[0]: line[1] for line in lines}


def test_nim_is_played_well(page):
    assert page[1]["take"] == [2, 1, 3, 2]


def test_hindsight_is_optimistic_and_open_loop_is_not(page):
    names, printed = page
    assert len(printed["values"]) == 6
    exact = best_values(names["lake"], 0.99)[names["root"].latent.state]
    assert (future_means(names["knowing"].search, 16).best_value > exact).all()
    assert (names["blind"].value < exact).all()


def best_values(simulator, discount):
    outcomes, value = simulator.outcomes, simulator.initial * 0
    for _ in range(2000):
        following = outcomes.reward + discount * ((~outcomes.ends) * value[outcomes.next_state])
        value = (outcomes.probability * following).sum(2).amax(1)
    return value


def test_no_copies_are_left(page):
    assert page[1]["kept"] == 0
