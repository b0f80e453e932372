"""Video files into which `play` records frames."""

import os
import pathlib
from typing import Any

import numpy as np

from alfish.environments import optional

SUFFIXES = (".mp4", ".gif")


class Video:
    """Records into one file, or each episode into a file of its own in a folder.

    Args:
        path: a name that ends with .mp4 or .gif, or a folder. A file that is there is replaced.

    Raises:
        ValueError: it ends otherwise, or the packages for videos are missing.
    """

    def __init__(self, path: pathlib.Path):
        self._is_file = path.suffix in SUFFIXES and not path.is_dir()
        if path.suffix and not self._is_file and not path.is_dir():
            raise ValueError(f"--video={path}: expected a name that ends with .mp4 or .gif, or a folder")
        # Environments that draw with pygame then look for no display.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        optional.require("imageio_ffmpeg", "video")
        self._imageio: Any = optional.require("imageio.v2", "video")
        self._path = path
        self._writer: Any = None
        self.files: list[pathlib.Path] = []

    def begin_episode(self, number: int, frames_per_second: float) -> None:
        """The frames of episode `number`, from 1, follow."""
        if self._writer is not None and self._is_file:
            return
        self.close()
        file = self._path if self._is_file else self._path / f"episode_{number:03d}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".gif":
            self._writer = self._imageio.get_writer(file, duration=1000 / frames_per_second, loop=0)
        else:
            # H.264 wants even sizes; imageio's own default, multiples of 16, would stretch the frames.
            self._writer = self._imageio.get_writer(file, fps=frames_per_second, macro_block_size=2)
        self.files.append(file)

    def show(self, frame: np.ndarray) -> bool:
        """Takes a frame, uint8 `[H, W, 3]`; always True: more can come."""
        height, width = frame.shape[:2]
        self._writer.append_data(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
        return True

    def close(self) -> None:
        """Completes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
