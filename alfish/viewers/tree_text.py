"""A tree as text for a terminal."""

import math
from collections.abc import Sequence

from alfish.viewers.shown_tree import Episode, Move, ShownTree, edge_name, played_name

_COLUMNS = ("N", "Q", "prior", "score", "reward", "discount", "value", "raw")
_ILLEGAL_NAMED = 30
_WIDTHS = (7, 10, 8, 10, 10, 10, 10, 10)


def episode_text(episode: Episode) -> str:
    """What stands above the moves."""
    lines = [_printable(", ".join([episode.title, *episode.facts])), f"  score: {episode.formulas['interior']}"]
    if episode.formulas["root"] != episode.formulas["interior"]:
        lines.append(f"  score at the root: {episode.formulas['root']}")
    return "\n".join(lines)


def move_text(move: Move, action_names: Sequence[str] = ()) -> str:
    """One move and its tree, a line for each shown node, actions in the order of their visits.

    Args:
        move: the move.
        action_names: of the actions, from 0; a missing name is the action's number.
    """
    tree, names = move.tree, action_names
    played = _printable(played_name(move, names))
    head = (
        f"move {move.number}: plays {played}, reward {_number(move.reward)}, {_number(move.reward_before)} before;"
        f" value {_number(tree.values[0])}, {tree.num_nodes} nodes, depth {tree.depth}"
    )
    lines = _lines(tree, move.action, names)
    width = max(len(label) for label, _ in lines)
    head_of_table = " " * width + "".join(f"{name:>{size}}" for name, size in zip(_COLUMNS, _WIDTHS, strict=True))
    return "\n".join([head, head_of_table, *(f"{label:<{width}}{numbers}".rstrip() for label, numbers in lines)])


def _lines(tree: ShownTree, played: int, names: Sequence[str]) -> list[tuple[str, str]]:
    """Label and numbers of each line, from the root down, each node's children below it."""
    children: list[list[int]] = [[] for _ in tree.parents]
    for place, parent in enumerate(tree.parents):
        if parent >= 0:
            children[parent].append(place)
    lines = []
    waiting = [(0, "", "")]  # place, what stands before its label, what stands before the labels below it
    while waiting:
        place, before, below = waiting.pop()
        lines.append((before + _label(tree, place, played, names), _numbers(tree, place)))
        notes = _notes(tree, place, names)
        for i, note in enumerate(notes):
            closes = i == len(notes) - 1 and not children[place]
            lines.append((f"{below}{'└' if closes else '├'}╴{note}", ""))
        for i, child in reversed(list(enumerate(children[place]))):
            last = i == len(children[place]) - 1
            waiting.append((child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))
    return lines


def _label(tree: ShownTree, place: int, played: int, names: Sequence[str]) -> str:
    if place == 0:
        return "root" + (" (chance)" if tree.is_chance[0] else "")
    parent, action = tree.parents[place], int(tree.actions[place])
    label = edge_name(tree, parent, action, tree.labels[place] if tree.labels else "", names)
    marks = []
    if parent == 0 and action == played:
        marks.append("played")
    if tree.discounts[place] == 0:
        marks.append("ends")
    if tree.is_chance[place]:
        marks.append("chance")
    if tree.views[place] < 0:
        marks.append("other player moves")
    return _printable(label) + (f" ({', '.join(marks)})" if marks else "")


def _notes(tree: ShownTree, place: int, names: Sequence[str]) -> list[str]:
    """The actions of a node that have no line of their own."""
    notes = []
    if edges := tree.unvisited.get(place, ()):
        listed = ", ".join(
            f"{_printable(edge_name(tree, place, edge.action, edge.label, names))} ({_percent(edge.prior)})"
            for edge in edges
        )
        number, mass = tree.other_unvisited.get(place, (0, 0.0))
        notes.append(f"not visited: {listed}" + (f", and {number} more ({_percent(mass)})" if number else ""))
    if actions := tree.illegal.get(place, ()):
        called = ", ".join(_printable(edge_name(tree, place, action, "", names)) for action in actions[:_ILLEGAL_NAMED])
        more = len(actions) - _ILLEGAL_NAMED
        notes.append(f"illegal: {called}" + (f", and {more} more" if more > 0 else ""))
    if place in tree.left_out:
        number, visits = tree.left_out[place]
        notes.append(f"not shown: {_count(number, 'action')} with {_count(visits, 'visit')}")
    return notes


def _numbers(tree: ShownTree, place: int) -> str:
    cells = [
        str(tree.visits[place]),
        _number(tree.q_values[place]),
        _percent(tree.priors[place]),
        _number(tree.scores[place]),
        _number(tree.rewards[place]),
        _number(tree.discounts[place]),
        _number(tree.values[place]),
        _number(tree.raw_values[place]),
    ]
    return "".join(f"{cell:>{size}}" for cell, size in zip(cells, _WIDTHS, strict=True))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _number(value: float) -> str:
    """At most nine characters; nothing for NaN."""
    size = abs(value)
    if math.isnan(value):
        return ""
    if value == int(value) and size < 1e7:
        return str(int(value))
    if size >= 1e6 or size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3}f}"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.1f}%"


def _printable(text: str) -> str:
    """Without what would move a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)
