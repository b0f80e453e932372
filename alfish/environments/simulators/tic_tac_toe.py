"""Tic-tac-toe."""

import gin
import torch

from alfish.environments.simulator import SimulatorStep

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


@gin.configurable
class TicTacToe:
    """Two players in turn, three in a row wins 1, a full board is a draw.

    A state is a board `[B, 9]` int8 from the top left, as the player to move sees it: 1 own, -1 the other's, 0 free.
    Action a takes square a. An observation is `[B, 2, 3, 3]` float32, own and other squares.

    Args:
        device: of the states.
    """

    num_actions = 9
    num_random = 0

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = device
        # As a matrix product, because that is several times faster than gathering the lines.
        self._lines = torch.zeros(9, len(_LINES), device=device)
        for number, line in enumerate(_LINES):
            self._lines[list(line), number] = 1.0

    def initial_state(self, num: int, seed: int = 0) -> torch.Tensor:
        """`num` empty boards; the seed is not used."""
        del seed
        return torch.zeros(num, 9, dtype=torch.int8, device=self._device)

    def step(self, state: torch.Tensor, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        """See Simulator."""
        board = state.scatter(1, action.unsqueeze(1), 1)
        won = (board.float() @ self._lines == 3.0).any(1)
        legal_mask = board == 0
        over = won | ~legal_mask.any(1)
        return SimulatorStep(-board, won.float(), over.float() - 1.0, legal_mask)

    def legal_mask(self, state: torch.Tensor) -> torch.Tensor:
        """The free squares."""
        return state == 0

    def observation(self, state: torch.Tensor) -> torch.Tensor:
        """See Simulator."""
        return torch.stack((state == 1, state == -1), dim=1).float().unflatten(2, (3, 3))
