"""Catch: a ball falls, a paddle at the bottom moves left or right; +1 for a caught ball, -1 for a lost one."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Catch(gymnasium.Env):
    """An episode is one fall of the ball.

    The observation is the board, row by row, with ones for the ball and the paddle: float32 `[rows * columns]`. The
    actions are 0 left, 1 stay, 2 right. The reward is 0 until the ball reaches the paddle's row.

    Args:
        rows: height of the board, at least 2.
        columns: its width.
    """

    def __init__(self, rows: int = 10, columns: int = 5):
        self.rows, self.columns = rows, columns
        self.observation_space = spaces.Box(0.0, 1.0, (rows * columns,), np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)  # seeds self.np_random, from which all chance must come
        self.ball_row = 0
        self.ball_column = int(self.np_random.integers(self.columns))
        self.paddle_column = self.columns // 2
        return self._board(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.paddle_column = min(max(self.paddle_column + int(action) - 1, 0), self.columns - 1)
        self.ball_row += 1
        landed = self.ball_row == self.rows - 1
        reward = (1.0 if self.ball_column == self.paddle_column else -1.0) if landed else 0.0
        return self._board(), reward, landed, False, {}

    def _board(self) -> np.ndarray:
        board = np.zeros((self.rows, self.columns), np.float32)
        board[self.ball_row, self.ball_column] = 1.0
        board[-1, self.paddle_column] = 1.0
        return board.ravel()


gymnasium.register("Catch-v0", entry_point=Catch)
