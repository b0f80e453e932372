"""Atari 2600 games, on ale-py's own vector environment. What is done to a game is stated in `AtariPreprocessing`."""

import dataclasses
import difflib
import types
from typing import Any, Literal

import gin
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from alfish.checks import check_at_least
from alfish.environments import optional
from alfish.environments.environment import VectorEnvironment
from alfish.environments.gymnasium_environment import GymnasiumEnvironment

_FRAMES_PER_SECOND = 60
_ENLARGEMENT = 4
# Games for two players only: there is nobody to play against.
_TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class AtariPreprocessing:
    """Everything that is done to an Atari game, in one place.

    The defaults are the protocol of Machado et al. 2018: sticky actions, and an episode is a whole game. That of Mnih
    et al. 2015 has `sticky_action_probability = 0` and, in training only, `zero_discount_on_life_loss = True` and
    `reward_clipping = True`.

    Args:
        frame_skip: frames that an action lasts; their rewards are added.
        max_pool: takes the larger of the last two frames in each pixel, against flicker.
        sticky_action_probability: that a frame repeats the action before instead.
        zero_discount_on_life_loss: gives the row on which a life was lost the discount 0. It stays MID, and the game
            goes on: returns and metrics are those of whole games.
        reward_clipping: clips an action's reward to [-1, 1]. Episode returns in the metrics are then clipped too: leave
            it False where the algorithm can clip for itself.
        full_action_set: all 18 actions; False leaves out those that do nothing in this game.
        max_noops: a game begins after 0 to this many frames without an action, drawn anew each time.
        fire_on_reset: presses FIRE on the first of these frames (even if none is drawn), in games that have it.
        max_frames_per_episode: frames, skipped ones included, after which an episode is truncated at the next row.
        image_size: height and width of a frame, in pixels.
        grayscale: False gives three colours.

    Raises:
        ValueError: a value cannot be used; the message says what can.
    """

    frame_skip: int = 4
    max_pool: bool = True
    sticky_action_probability: float = 0.25
    zero_discount_on_life_loss: bool = False
    reward_clipping: bool = False
    full_action_set: bool = False
    max_noops: int = 30
    fire_on_reset: bool = True
    max_frames_per_episode: int = 108_000
    image_size: int = 84
    grayscale: bool = True

    def __post_init__(self) -> None:
        for name, least in (("frame_skip", 1), ("max_noops", 0), ("max_frames_per_episode", 1), ("image_size", 1)):
            check_at_least(f"AtariPreprocessing.{name}", getattr(self, name), least)
        if not 0.0 <= self.sticky_action_probability < 1.0:
            raise ValueError(
                f"AtariPreprocessing.sticky_action_probability is {self.sticky_action_probability}; expected 0 ≤ p < 1"
            )


@gin.configurable
def make_atari(
    game: str,
    num_envs: int,
    preprocessing: AtariPreprocessing | None = None,
    num_threads: int = 0,
    render_mode: Literal["rgb_array"] | None = None,
    freeze_after_end: bool = False,
) -> VectorEnvironment:
    """Makes B environments that play one Atari game.

    A row's observation is one uint8 frame, `(1, image_size, image_size)`, or `(3, …)` in colour. Frames are never
    stacked here: `FrameStack` does that where they are used, so that each is stored once.

    A row ends an episode (LAST) where the game is over, with discount 0, or has reached its limit, with discount 1. On
    a truncated row the frame is the game's own last one. On a terminated row it is not: ale-py leaves a game's last
    frame out and shows those before it; nothing is bootstrapped from it.

    Args:
        game: `"pong"`, `"Pong"` or `"ALE/Pong-v5"`; `"ms_pacman"` or `"MsPacman"`.
        num_envs: B, at least 1.
        preprocessing: None takes `AtariPreprocessing()`, as gin configures it.
        num_threads: threads that play; 0 takes as many as there are cores, at most B. The rows do not depend on it.
        render_mode: needs no setting: `render` enlarges the observed frame, all that ale-py's vector environment shows.
        freeze_after_end: see `VectorEnvironment.freezes`; bind `Experiment.freeze_after_end`, which gives it. ale-py
            cannot leave a game alone: one that is frozen plays on unseen, so this saves no time.

    Returns:
        The environments.

    Raises:
        ValueError: an argument cannot be used; the message says what can.
        MissingPackageError: ale-py is not installed; the message holds the pip line.
    """
    del render_mode
    check_at_least("num_envs", num_envs, 1)
    vector_env = optional.require("ale_py.vector_env", "atari")
    rom = _rom(game, optional.require("ale_py.roms", "atari"))
    chosen = AtariPreprocessing() if preprocessing is None else preprocessing

    def make() -> VectorEnv:
        env = vector_env.AtariVectorEnv(rom, num_envs, num_threads=num_threads, **_arguments(chosen))
        max_rows = -(-chosen.max_frames_per_episode // chosen.frame_skip)
        rows = AtariRows(env, max_rows, chosen.zero_discount_on_life_loss)
        rows.metadata = {**env.metadata, "render_fps": _FRAMES_PER_SECOND / chosen.frame_skip}
        return rows

    return GymnasiumEnvironment(make, f"atari {rom}", seeds_each=True, no_future=_no_future, freezes=freeze_after_end)


def _arguments(chosen: AtariPreprocessing) -> dict[str, Any]:
    return {
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "stack_num": 1,
        "frameskip": chosen.frame_skip,
        "maxpool": chosen.max_pool,
        "repeat_action_probability": chosen.sticky_action_probability,
        "reward_clipping": chosen.reward_clipping,
        "full_action_space": chosen.full_action_set,
        "noop_max": chosen.max_noops + 1,  # theirs is exclusive
        "use_fire_reset": chosen.fire_on_reset,
        "img_height": chosen.image_size,
        "img_width": chosen.image_size,
        "grayscale": chosen.grayscale,
        # Lives and the time limit are ours: on a lost life theirs would restart the game, or end an episode without a
        # FIRST row after it; at its limit theirs would show an old frame.
        "episodic_life": False,
        "life_loss_info": False,
        "max_num_frames_per_episode": chosen.max_frames_per_episode + 2 * chosen.frame_skip,
    }


def _rom(game: str, roms: types.ModuleType) -> str:
    known = {rom.replace("_", ""): rom for rom in sorted(roms.get_all_rom_ids()) if rom not in _TWO_PLAYERS}
    plain = game.removeprefix("ALE/").removesuffix("-v5").replace("_", "").lower()
    if plain in known:
        return known[plain]
    close = difflib.get_close_matches(plain, known, n=3)
    hint = f"did you mean {' or '.join(repr(known[match]) for match in close)}?" if close else "no name is like it."
    raise ValueError(f"no Atari game {game!r}; {hint} There are {len(known)}: {', '.join(known.values())}")


def _no_future(terminated: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    return terminated | info["life_lost"]


class AtariRows(gymnasium.vector.VectorWrapper):
    """ale-py's vector environment, with our own time limit, notice of lost lives, and channels first.

    Args:
        env: an `AtariVectorEnv` with one frame, NEXT_STEP autoreset, and a limit of its own that is never reached.
        max_rows: steps after which an episode is truncated.
        notice_lives: False reports no life as lost.
    """

    def __init__(self, env: VectorEnv, max_rows: int, notice_lives: bool):
        super().__init__(env)
        self._max_rows = max_rows
        self._notice_lives = notice_lives
        self._rows = np.zeros(env.num_envs, np.int64)
        self._lives = np.zeros(env.num_envs, np.int32)
        self._ended = np.zeros(env.num_envs, np.bool_)
        self._cut = np.zeros(env.num_envs, np.bool_)
        frames, height, width, *colours = env.single_observation_space.shape  # type: ignore[misc]  # a Box has one
        self._in_colour = bool(colours)
        self._seen = np.zeros((env.num_envs, colours[0] if colours else frames, height, width), np.uint8)
        self._single_observation_space = gymnasium.spaces.Box(
            0, 255, (colours[0] if colours else frames, height, width), np.uint8
        )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins new games in all environments, or where `options["reset_mask"]` is True."""
        if options is not None and "reset_mask" in options:
            return self._reset_some(options["reset_mask"])
        seeds: Any = np.asarray(seed)  # an array, where the base class says a number
        observation, info = self.env.reset(seed=seeds, options=options)
        self._rows[:] = 0
        self._ended[:] = False
        self._cut[:] = False
        self._lives = info["lives"]
        return self._channels_first(observation), info

    def _reset_some(self, which: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        before = self._seen
        observation, info = self.env.reset(options={"reset_mask": which})
        self._seen = np.where(which[:, None, None, None], self._channels_first(observation), before)
        self._rows[which] = 0
        self._ended, self._cut = self._ended & ~which, self._cut & ~which
        self._lives = np.where(which, info["lives"], self._lives)
        return self._seen, info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Takes a step; where a game was truncated the row before, begins a new one."""
        observation, reward, terminated, _, info = self.env.step(actions)
        begins = self._ended
        if self._cut.any():
            # ale-py knows nothing of this end: the step it took there is thrown away.
            fresh, fresh_info = self.env.reset(options={"reset_mask": self._cut})
            observation[self._cut] = fresh[self._cut]
            reward[self._cut] = 0
            terminated[self._cut] = False
            info["lives"] = np.where(self._cut, fresh_info["lives"], info["lives"])
        self._rows += 1
        self._rows[begins] = 0
        lives = info["lives"]
        if self._notice_lives:
            info["life_lost"] = (lives < self._lives) & ~begins
        else:
            info["life_lost"] = np.zeros_like(terminated)
        self._lives = lives
        self._cut = (self._rows >= self._max_rows) & ~terminated
        self._ended = terminated | self._cut
        return self._channels_first(observation), reward, terminated, self._cut, info

    def _channels_first(self, observation: np.ndarray) -> np.ndarray:
        self._seen = observation[:, 0].transpose(0, 3, 1, 2) if self._in_colour else observation
        return self._seen

    def render(self) -> tuple[np.ndarray, ...]:
        """What was observed last, enlarged: uint8 `[H, W, 3]` for each environment."""
        frames = self._seen.transpose(0, 2, 3, 1).repeat(_ENLARGEMENT, axis=1).repeat(_ENLARGEMENT, axis=2)
        return tuple(frames if self._in_colour else frames.repeat(3, axis=3))
