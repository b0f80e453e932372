"""Where `tree` puts what it has recorded: the terminal, or a page."""

import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

from alfish.summary.console_writer import CLEAR_LINE
from alfish.trainers.checkpoint_files import replace_file
from alfish.viewers.shown_tree import Episode, formulas_of
from alfish.viewers.tree_html import episode_page, move_json, move_summary
from alfish.viewers.tree_recording import RecordedMove
from alfish.viewers.tree_text import episode_text, move_text

LARGEST_PAGE = 64_000_000
"""Bytes of moves at which a page ends: a browser would be slow with more."""

Describe = Callable[[RecordedMove], Episode]
"""From the first move to what is said of all of them."""


def described(title: str, folder: pathlib.Path, seed: int, names: Sequence[str], first: RecordedMove) -> Episode:
    """What is said of all moves of an episode of `title`, from the first one."""
    settings = first.result.settings
    rules = dict.fromkeys(type(rule).__name__ for rule in (settings.root, settings.interior))
    facts = [f"weights of {folder}", f"{first.simulations} simulations a move", *rules, f"seed {seed}"]
    return Episode(title, facts, names, formulas_of(first.result), settings.minimum_range)


def print_text(moves: Iterator[RecordedMove], describe: Describe) -> None:
    """Prints every move as soon as it was played, and how the episode went on."""
    first = last = _first(moves)
    episode = describe(first)
    print(episode_text(episode))
    for last in itertools.chain([first], moves):
        print(f"\n{move_text(last.move, episode.action_names)}", flush=True)
    print(f"\n{_end(last)}")


def write_page(moves: Iterator[RecordedMove], describe: Describe, file: pathlib.Path) -> None:
    """Writes one page with all moves, or with as many as `LARGEST_PAGE` allows; prints what it holds and its size.

    Raises:
        ValueError: the episode ends before the first move.
        OSError: the file cannot be written; the one that was there is untouched.
    """
    first = last = _first(moves)
    episode, texts, summaries, num_nodes, num_bytes = describe(first), [], [], 0, 0
    rewrites = sys.stderr.isatty()
    for last in itertools.chain([first], moves):
        texts.append(move_json(last.move, episode.action_names))
        summaries.append(move_summary(last.move))
        num_nodes += len(last.move.tree.parents)
        num_bytes += len(texts[-1].encode())
        if rewrites:
            print(f"{CLEAR_LINE}move {last.move.number}", end="", file=sys.stderr, flush=True)
        if num_bytes > LARGEST_PAGE:
            break
    if rewrites:
        print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
    page = episode_page(episode, texts, summaries).encode()
    replace_file(file, memoryview(page))
    if num_bytes > LARGEST_PAGE:
        print(
            f"the page ends with move {last.move.number}, at {num_bytes / 1e6:.0f} MB; for more of them leave out "
            "nodes with few visits (--min_visits) or deep ones (--depth)"
        )
    else:
        print(_end(last))
    print(f"wrote {file}: {len(texts)} moves, {num_nodes:,} nodes, {len(page) / 1e6:.1f} MB; open it in a browser")


def _first(moves: Iterator[RecordedMove]) -> RecordedMove:
    first = next(moves, None)
    if first is None:
        raise ValueError("the episode ends before --first_move; give an earlier one, or another --seed")
    return first


def _end(last: RecordedMove) -> str:
    total = last.move.reward_before + last.move.reward
    if last.is_last:
        return f"the episode ends with move {last.move.number}: return {total:.2f}"
    return (
        f"the episode goes on after move {last.move.number} (return {total:.2f} so far); --max_moves shows more of it"
    )
