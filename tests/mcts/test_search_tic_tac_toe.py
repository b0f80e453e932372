"""Perfect play on tic-tac-toe: a true model without knowledge (equal logits, value 0) and PUCT."""

import functools
import math

import torch

from alfish.mcts.records import PuctSettings, RootNode, Step
from alfish.mcts.search import search

LINES = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])

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


def tic_tac_toe(board, action):
    """Boards `[B, 9]` of the player to move (1 own, -1 other); the answer's are of the player who moves next."""
    board = board.clone()
    board[torch.arange(len(board)), action] = 1
    won = (board[:, LINES].sum(2) == 3).any(1)
    over = won | (board != 0).all(1)
    logits = torch.zeros(board.shape).masked_fill(board != 0, -math.inf)
    return Step(-board, won.float(), -(~over).float(), logits, torch.zeros(len(board)))


def parse(text):
    return torch.tensor([{"X": 1, "O": -1, ".": 0}[square] for square in text.replace("/", "")])


def boards():
    return torch.stack([parse(text) for _, text, _ in POSITIONS])


def visits_of(boards, num_simulations):
    root = RootNode(boards, torch.zeros(boards.shape), torch.zeros(len(boards)))
    return search(root, tic_tac_toe, num_simulations, PuctSettings(known_range=(-1.0, 1.0)), boards == 0).visits


def test_finds_the_best_move_of_each_position():
    for (name, text, best), board in zip(POSITIONS, boards(), strict=True):
        budget = 200 * int((board == 0).sum())
        visits = visits_of(board.unsqueeze(0), budget)[0]
        assert int(visits.argmax()) in best, f"{name} ({text}): visits {visits.tolist()}"


@functools.cache
def outcome(board):
    """Minimax: what each free square is worth to the player to move, as `{square: value}`."""
    worth = {}
    for action in (square for square in range(9) if board[square] == 0):
        step = tic_tac_toe(torch.tensor([board]), torch.tensor([action]))
        worth[action] = step.reward.item()
        if step.discount.item() != 0:
            worth[action] -= max(outcome(tuple(step.latent[0].tolist())).values())
    return worth


def test_plays_perfectly_in_every_position_that_can_come_up():
    """From two moves on. Before, a search without knowledge sees the refutation of some openings too late."""
    frontier = torch.zeros(1, 9, dtype=torch.int64)
    for free_squares in range(9, 0, -1):
        if free_squares <= 7:
            for board, move in zip(frontier, visits_of(frontier, 200 * free_squares).argmax(1).tolist(), strict=True):
                worth = outcome(tuple(board.tolist()))
                assert worth[move] == max(worth.values()), f"{board.tolist()}: {move} of {worth}"
        steps = [tic_tac_toe(rows, torch.full((len(rows),), action)) for action, rows in free_rows(frontier)]
        frontier = torch.unique(torch.cat([step.latent[step.discount != 0] for step in steps]), dim=0)
    assert not len(frontier)


def free_rows(boards):
    found = [(action, boards[boards[:, action] == 0]) for action in range(9)]
    return [(action, rows) for action, rows in found if len(rows)]
