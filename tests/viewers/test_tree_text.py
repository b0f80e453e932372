"""Trees as text."""

import re

import numpy as np
import torch
from viewer_trees import TableModel, episode_of, full_result, searched

from alfish.mcts.settings import ImprovedPolicy, SearchSettings, SequentialHalving
from alfish.viewers.shown_tree import Move, shown_tree
from alfish.viewers.tree_text import episode_text, move_text


def test_a_small_tree():
    model = TableModel(num_actions=3)
    result = searched(2, model=model, legal_mask=torch.tensor([[True, True, False]]))
    shown = shown_tree(result)
    text = move_text(Move(7, shown, 1, 2.5, -1.0), ["stay", "go"])
    lines = text.splitlines()
    assert lines[0].startswith("move 7: plays go, reward 2.500, -1 before; value ")
    assert lines[0].endswith(f"{shown.num_nodes} nodes, depth {shown.depth}")
    assert lines[1].split() == ["N", "Q", "prior", "score", "reward", "discount", "value", "raw"]
    assert lines[2].split()[:2] == ["root", "3"]
    assert any(line.startswith("├╴illegal: 2") for line in lines)
    (played,) = (line for line in lines if "(played)" in line)
    assert played.startswith(("├─ go", "└─ go"))
    place = 1 + int(np.flatnonzero(shown.actions[1:] == 1)[0])
    expected = [f"{shown.visits[place]}", f"{shown.q_values[place]:.3f}", f"{100 * shown.priors[place]:.1f}%"]
    assert played.split()[3:6] == expected


def test_marks_of_nodes():
    text = move_text(Move(1, shown_tree(full_result()), 0, 0.0, 0.0), ["left"])
    for mark in ("ends)", "(chance", "other player moves)", "outcome ", "not visited: ", "illegal: 3"):
        assert mark in text


def test_every_node_has_a_line():
    shown = shown_tree(full_result())
    lines = move_text(Move(1, shown, 0, 0.0, 0.0)).splitlines()[2:]
    assert sum("─ " in line or line.startswith("root") for line in lines) == len(shown.parents)
    assert len({len(line) for line in lines if "─ " in line}) == 1, "the columns do not stand in line"


def test_what_is_left_out_is_said():
    text = move_text(Move(1, shown_tree(full_result(), max_depth=1), 0, 0.0, 0.0))
    assert "not shown: " in text
    assert "1 actions" not in text
    assert "1 visits" not in text


def test_many_illegal_actions_are_counted():
    mask = torch.arange(40)[None] < 5
    text = move_text(Move(1, shown_tree(searched(3, model=TableModel(num_actions=40), legal_mask=mask)), 0, 0.0, 0.0))
    assert re.search(r"illegal: 5, 6, .*, 34, and 5 more\n", text)


def test_the_head_says_what_the_score_is():
    settings = SearchSettings(root=SequentialHalving(), interior=ImprovedPolicy())
    episode, _ = episode_of([searched(16, settings=settings)])
    lines = episode_text(episode).splitlines()
    assert lines[0] == "test/Game-v0, the weights of a test, 16 simulations"
    assert "improved policy" in lines[1]
    assert "at the root: Gumbel" in lines[2]


def test_names_cannot_move_the_cursor():
    episode, moves = episode_of([full_result()], names=("\x1b[2J", "a\nb", "\r", "\x07"), title="\x1b]0;x\x07")
    text = episode_text(episode) + move_text(moves[0], episode.action_names)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "a?b" in text
