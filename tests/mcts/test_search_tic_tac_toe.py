"""Perfect play on tic-tac-toe: the true model without knowledge (equal logits, value 0) and PUCT."""

import functools

import pytest
import torch

from alfish.environments.simulators.tic_tac_toe import TicTacToe
from alfish.mcts.search import search
from alfish.mcts.settings import Puct, SearchSettings
from alfish.models.simulator_model import SimulatorModel

SIMULATIONS_PER_FREE_SQUARE = 200

# Values of games are known. With equal logits the paper's c1 of 1.25 spends too much on moves that are already refuted,
# and at 200 simulations per free square errs in a few openings; from 0.3 to 0.8 it errs nowhere.
SETTINGS = SearchSettings(
    root=Puct(c1=0.5, unvisited_value="parent"),
    interior=Puct(c1=0.5, unvisited_value="parent"),
    value_range=(-1.0, 1.0),
)

# The player to move is X; the squares are numbered from the top left. The best moves follow from minimax by hand.
POSITIONS = [
    ("win in one, a row", "XX./OO./...", {2}),
    ("win in one, a diagonal", "XO./OX./...", {8}),
    ("win rather than block", "OO./XX./...", {5}),
    ("win in one, a column", "X.O/X.O/...", {6}),
    ("block a row", "OO./X../...", {2}),
    ("block a column", "O.X/O../...", {6}),
    ("block a diagonal", "O../.OX/...", {8}),
    ("fork", "X.O/.O./..X", {6}),
    ("two opposite corners: a side, not a corner", "O../.X./..O", {1, 3, 5, 7}),
    ("forced draw", "XOX/.O./...", {7}),
    ("last square", "XOX/OOX/.XO", {6}),
]

LINES = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]


def after(board, square):
    """The board as the other player sees it, the reward, and whether the game is over: the rules without a tensor."""
    board = board[:square] + (1,) + board[square + 1 :]
    won = any(all(board[place] == 1 for place in line) for line in LINES)
    return tuple(-mark for mark in board), float(won), won or 0 not in board


@functools.cache
def outcomes(board):
    """Minimax: what each free square is worth to the player to move, as `{square: value}`."""
    worth = {}
    for square in (square for square in range(9) if board[square] == 0):
        following, reward, over = after(board, square)
        worth[square] = reward if over else -max(outcomes(following).values())
    return worth


def positions_by_free_squares():
    """All positions in which the game goes on and that can come up, `{free squares: set of boards}`."""
    found = {9: {(0,) * 9}}
    for free in range(9, 1, -1):
        moves = [after(board, square) for board in found[free] for square in outcomes(board)]
        found[free - 1] = {board for board, _, over in moves if not over}
    return found


def visits_of(boards, num_simulations):
    model = SimulatorModel(TicTacToe(), discount=1.0)
    root = model.root(torch.tensor(list(boards), dtype=torch.int8))
    return search(root, model.step, num_simulations, SETTINGS).visits


@pytest.mark.parametrize("free", sorted({text.count(".") for _, text, _ in POSITIONS}))
def test_finds_the_best_move_of_each_position(free):
    cases = [case for case in POSITIONS if case[1].count(".") == free]
    boards = [tuple({"X": 1, "O": -1, ".": 0}[square] for square in text.replace("/", "")) for _, text, _ in cases]
    for (name, text, best), visits in zip(cases, visits_of(boards, SIMULATIONS_PER_FREE_SQUARE * free), strict=True):
        assert int(visits.argmax()) in best, f"{name} ({text}): visits {visits.tolist()}"


@pytest.mark.parametrize("free", range(9, 0, -1))
def test_plays_perfectly_in_every_position_that_can_come_up(free):
    boards = sorted(positions_by_free_squares()[free])
    moves = visits_of(boards, SIMULATIONS_PER_FREE_SQUARE * free).argmax(1).tolist()
    for board, move in zip(boards, moves, strict=True):
        worth = outcomes(board)
        assert worth[move] == max(worth.values()), f"{board}: {move} of {worth}"


def test_the_positions_are_all_there_are():
    counts = {free: len(boards) for free, boards in positions_by_free_squares().items()}
    assert counts == {9: 1, 8: 9, 7: 72, 6: 252, 5: 756, 4: 1140, 3: 1372, 2: 696, 1: 222}
    assert sum(counts.values()) == 4520
    assert max(outcomes((0,) * 9).values()) == 0


@pytest.mark.parametrize("free", [9, 5, 3])
def test_a_search_that_is_too_short_errs(free):
    """So the test of perfect play can fail."""
    boards = sorted(positions_by_free_squares()[free - 1])
    moves = visits_of(boards, 3).argmax(1).tolist()
    assert any(outcomes(board)[move] < max(outcomes(board).values()) for board, move in zip(boards, moves, strict=True))
