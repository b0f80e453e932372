"""The engine against the oracle over several moves of games whose trees are reused."""

import numpy as np
import oracle
import pytest
import torch
from oracle import Halving, TooClose
from search_cases import RULES, assert_near, assert_same_tree, draw_mask, engine_settings, make_game

from alfish.mcts.search import search
from alfish.mcts.subtree import reroot
from alfish.mcts.tree import Tree

B, MOVES, SIMULATIONS = 8, 5, 24
REUSED = [name for name, settings in RULES.items() if not isinstance(settings.root, Halving)]


class Line:
    """One row's game: where it is, and the oracle's search there; None while rounding has decided too much."""

    def __init__(self):
        self.state, self.search = 0, None

    def think(self, game, row, settings, mask, kept):
        root = game.root_answer(row, mask[row].tolist(), self.state)
        self.search = oracle.Search(game.one_row(row), root, settings, SIMULATIONS, kept=kept)
        try:
            self.search.run()
        except TooClose:
            self.search = None


def choose(game, lines, visits, move):
    """What is done in each row, the most visited action, any action, or -1 for the end; moves the rows on."""
    rng, actions = np.random.default_rng(move), visits.argmax(1).tolist()
    for row, line in enumerate(lines):
        if rng.random() < 0.3:
            actions[row] = int(rng.integers(game.A))
        index = (row, line.state, actions[row])
        if rng.random() < 0.15 or game.logits[index] == -np.inf:
            actions[row], line.state = -1, 0
        else:  # behind an end of the game too, where the tree begins anew
            line.state = int(game.next[index])
    return actions


def kept_node(line, action):
    """What the oracle keeps: nothing behind an edge without a node, with discount 0, or into a chance node."""
    child = line.search.root.children.get(action) if line.search else None
    return child if child and child.discount != 0 and not child.is_chance else None


@pytest.mark.parametrize("kind", ["ends", "chance_turns_illegal"])
@pytest.mark.parametrize("name", REUSED)
def test_reused_trees_equal_the_oracles(name, kind):
    settings, game = RULES[name], make_game(kind, B, 21)
    lines, kept, retained, compared = [Line() for _ in range(B)], [None] * B, None, 0
    lost = [False] * B
    for move in range(MOVES):
        root = game.root([line.state for line in lines])
        mask = draw_mask(game, move, root.prior_logits)
        result = search(root, game, SIMULATIONS, engine_settings(settings), mask, retained=retained)
        tree = Tree(*(field.numpy() for field in result.tree))
        for row, line in enumerate(lines):
            if not lost[row]:
                line.think(game, row, settings, mask, kept[row])
                if line.search:
                    compared += 1
                    assert_same_tree(tree, row, 0, line.search.root)
                    assert_near(result.value[row].item(), line.search.root.view().value)
        actions = choose(game, lines, result.visits, move)
        kept = [kept_node(line, action) for line, action in zip(lines, actions, strict=True)]
        lost = [line.search is None and action >= 0 for line, action in zip(lines, actions, strict=True)]
        retained = reroot(result, torch.tensor(actions), SIMULATIONS)
    assert compared > 0.8 * B * MOVES
