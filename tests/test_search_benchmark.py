"""The parts of the search benchmark that do not measure: what the contestants are fed, and how times are compared."""

import argparse
import importlib
import pathlib
import sys
import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], types.ModuleType]]:
    """A function that imports a module of benchmarks/."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in {path.stem for path in FOLDER.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


def test_the_depth_of_a_simulation_counts_the_edges_to_its_node(load):
    parents = np.array([[-1, 0, 1, 2, 0], [-1, 0, -1, 1, 3]])  # depths 1 2 3 1, and 1 – 2 3
    assert load("search_models").mean_depth(parents) == pytest.approx((1 + 2 + 3 + 1 + 1 + 2 + 3) / 7)


def test_contestants_take_turns_and_ratios_are_taken_round_by_round(load):
    interleaving = load("interleaving")
    calls: list[str] = []
    times = interleaving.time_in_turns({name: lambda name=name: calls.append(name) for name in "abc"}, 3, 0.0)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(rounds) for name, rounds in times.rounds.items()} == {"a": 3, "b": 3, "c": 3}
    times = interleaving.Times({"slow": [4.0, 30.0, 6.0], "fast": [2.0, 10.0, 6.0]})
    assert times.ratio("slow", "fast") == (2.0, 1.0, 3.0)
    assert times.median("slow") == 6.0
    assert times.median("absent") is None
    assert times.ratio("absent", "fast") is None


def test_the_free_model_begins_anew_with_each_search(load):
    models, sections = load("search_models"), load("search_sections")
    size = models.Size(3, 12, 4)
    answers = models.random_answers(size, 0)
    contestant = sections.contestant(size, answers, 5, sections.RULES["PUCT"])
    first, second = contestant.work(), contestant.work()
    np.testing.assert_array_equal(first.visits, second.visits)
    assert (first.visits.sum(axis=1) == size.simulations).all()
    assert 1.0 <= first.mean_depth == second.mean_depth


def test_a_peer_that_is_not_there_is_left_out_with_a_reason(load, tmp_path):
    peers = load("search_peers")
    assert "--lightzero FOLDER" in peers.load_lightzero(None)
    assert "mz_tree" in peers.load_lightzero(tmp_path)


def test_sizes_are_read_from_the_command_line(load):
    search = load("search")
    assert search.parse_sizes("8,50,6;64,200,9") == [(8, 50, 6), (64, 200, 9)]
    with pytest.raises(argparse.ArgumentTypeError, match="'8,50'; expected B,simulations,A"):
        search.parse_sizes("8,50")
