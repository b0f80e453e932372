"""Shows the search trees of an episode, as one page for a browser or as text.

  python -m alfish.bin.tree RUN
  python -m alfish.bin.tree RUN --text --first_move=12 --max_moves=1

The page needs no server and no network. What its numbers mean is in docs/looking_at_a_tree.md.
"""

import functools
import os
import pathlib
import sys
from collections.abc import Sequence

import torch

from alfish import specs
from alfish.bin import command_line, devices, loading
from alfish.bin.command_flags import Flags, path, whole_number
from alfish.bin.tree_outputs import described, print_text, write_page
from alfish.rollout.acting import Actor
from alfish.trainers.experiment import Built
from alfish.viewers.tree_recording import Wanted, record, tree_search

_TEXT_DEPTH = 3


def _flags() -> Flags:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("run", metavar="RUN", nargs="?", type=path, help="the run's folder; --root_dir=RUN says the same")
    add("--root_dir", metavar="RUN", type=path, help="the run's folder")
    add("--output", metavar="FILE", type=path, default=pathlib.Path("tree.html"), help="the page (tree.html)")
    add("--text", action="store_true", help="print text instead of writing a page")
    add("--first_move", metavar="N", type=whole_number(1), default=1, help="the first move that is shown (1)")
    add("--max_moves", metavar="N", type=whole_number(1), default=100, help="how many are shown, at most (100)")
    add("--simulations", metavar="N", type=whole_number(0), help="of each search (as in the run's evaluation)")
    add("--min_visits", metavar="N", type=whole_number(1), default=1, help="leave out nodes with fewer visits (1)")
    add("--depth", metavar="N", type=whole_number(1), help=f"leave out deeper nodes (none; with --text {_TEXT_DEPTH})")
    add("--seed", metavar="N", type=whole_number(0), default=0, help="decides the episode (0)")
    add("--device", metavar="DEVICE", default="auto", help="auto, cpu, cuda or cuda:N")
    return flags


def main(arguments: Sequence[str]) -> int:
    """Plays an episode with the best weights of a run, and shows the tree of every move."""
    given = _flags().parse(arguments)
    if (given.run is None) == (given.root_dir is None):
        raise ValueError("expected the run's folder, once: python -m alfish.bin.tree RUN")
    folder, output = given.run or given.root_dir, given.output
    if not given.text and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise ValueError(f"--output={output}: expected a file in a folder that is there")
    device = devices.select(given.device)
    wanted = Wanted(
        seed=given.seed,
        first_move=given.first_move,
        max_moves=given.max_moves,
        simulations=given.simulations,
        min_visits=given.min_visits,
        depth=_TEXT_DEPTH if given.text and given.depth is None else given.depth,
        pictures=not given.text,
    )
    built, unrendered = _build(folder, device)
    environment, algorithm = built.environment, built.algorithm.eval()
    try:
        tree_search(algorithm)
        actor = Actor(algorithm, built.transform, 1, device)
        moves = record(environment, specs.zeros(built.row_specs, (1,)), algorithm, actor, wanted, unrendered)
        names = environment.action_names
        describe = functools.partial(described, environment.name, folder, given.seed, names)
        if given.text:
            print_text(moves, describe)
        else:
            write_page(moves, describe, output)
    finally:
        environment.close()
    return command_line.DONE


def _build(folder: pathlib.Path, device: torch.device) -> tuple[Built, str]:
    """The run, and why its environments cannot be rendered; empty if they can."""
    # Environments that draw with pygame then look for no display.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        return loading.build(folder, device, render_mode="rgb_array")[1], ""
    except ValueError as error:
        # Whatever else is wrong is raised again.
        return loading.build(folder, device)[1], str(error)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
