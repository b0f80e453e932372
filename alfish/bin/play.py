"""Shows what a run has learned, in a window or as a video.

  python -m alfish.bin.play --root_dir=RUN
  python -m alfish.bin.play --root_dir=RUN --video=FILE.mp4

Q, Escape, or closing the window ends it.
"""

import sys
from collections.abc import Sequence

import torch

from alfish import specs
from alfish.bin import command_line, devices, loading
from alfish.bin.command_flags import Flags, path, whole_number
from alfish.bin.video import Video
from alfish.bin.window import Window
from alfish.rollout.acting import Actor
from alfish.trainers.experiment import Built


def _flags() -> Flags:
    flags = Flags(__doc__)
    add = flags.add_argument
    add("--root_dir", metavar="RUN", type=path, required=True, help="the run's folder")
    add("--video", metavar="PATH", type=path, help="record into a .mp4 or .gif file, or a folder of files")
    add("--episodes", metavar="N", type=whole_number(1), default=1, help="how many episodes (1)")
    add("--seed", metavar="N", type=whole_number(0), default=0, help="decides the episodes (0)")
    add("--device", metavar="DEVICE", default="auto", help="auto, cpu, cuda or cuda:N")
    return flags


def main(arguments: Sequence[str]) -> int:
    """Plays episodes with the best weights of a run, shows or records them, and prints their returns."""
    given = _flags().parse(arguments)
    device = devices.select(given.device)
    display: Window | Video = Window() if given.video is None else Video(given.video)
    try:
        _, built = loading.build(given.root_dir, device, render_mode="rgb_array")
        try:
            with torch.inference_mode():
                _play(built, device, given.episodes, given.seed, display)
        finally:
            built.environment.close()
    finally:
        display.close()
    for file in getattr(display, "files", []):
        print(f"recorded {file}")
    return command_line.DONE


def _play(built: Built, device: torch.device, episodes: int, seed: int, display: Window | Video) -> None:
    """Plays whole episodes; ends early if the window is closed."""
    environment, row = built.environment, specs.zeros(built.row_specs, (1,))
    actor = Actor(built.algorithm.eval(), built.transform, 1, device)
    torch.manual_seed(seed)
    environment.reset(seed, row)
    for number in range(1, episodes + 1):
        display.begin_episode(number, environment.frames_per_second)
        total, length = 0.0, 0
        wanted = display.show(environment.render())
        while wanted and not row.is_last().item():
            environment.step(actor.predict(row), row)
            total, length = total + row.reward.item(), length + 1
            wanted = display.show(environment.render())
        if not wanted:
            return
        print(f"episode {number:3d}: return {total:.2f}, {length} steps", flush=True)
        if number < episodes:
            environment.step(actor.predict(row), row)


if __name__ == "__main__":
    sys.exit(command_line.run(main))
