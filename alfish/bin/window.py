"""A window in which `play` shows frames."""

import os
from typing import Any

import numpy as np

from alfish.environments import optional

_UNSEEN = ("dummy", "offscreen")


class Window:
    """Shows frames as fast as they were made for; closing the window, Escape or Q ends it.

    Raises:
        ValueError: there is no display, or pygame is missing.
    """

    def __init__(self) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        self._pygame: Any = optional.require("pygame", "video")
        try:
            self._pygame.display.init()
            # Without a display SDL draws where nobody can see it; that must have been asked for.
            is_seen = self._pygame.display.get_driver() not in _UNSEEN or "SDL_VIDEODRIVER" in os.environ
        except self._pygame.error:
            is_seen = False
        if not is_seen:
            raise ValueError("there is no display to open a window on; record a video: --video=FILE.mp4")
        self._clock = self._pygame.time.Clock()
        self._frames_per_second = 0.0

    def begin_episode(self, number: int, frames_per_second: float) -> None:
        """The frames of episode `number`, from 1, follow."""
        self._pygame.display.set_caption(f"alfish, episode {number}")
        self._frames_per_second = frames_per_second

    def show(self, frame: np.ndarray) -> bool:
        """Takes a frame, uint8 `[H, W, 3]`; False if nobody wants to see more."""
        pygame = self._pygame
        size = (frame.shape[1], frame.shape[0])
        surface = pygame.display.get_surface()
        if surface is None or surface.get_size() != size:
            surface = pygame.display.set_mode(size)
        surface.blit(pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        self._clock.tick(self._frames_per_second)
        ends = (pygame.K_ESCAPE, pygame.K_q)
        # All events are taken: a window whose events wait is thought to hang.
        return not [event for event in pygame.event.get() if event.type == pygame.QUIT or event.dict.get("key") in ends]

    def close(self) -> None:
        """Closes the window."""
        self._pygame.display.quit()
