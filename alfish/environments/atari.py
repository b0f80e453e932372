"""Atari 2600 games, on ale-py's own vector environment. All of the preprocessing is stated in `make_atari`."""

import difflib
import types
from typing import Any

import gin
import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from alfish.environments import optional
from alfish.environments.environment import VectorEnvironment
from alfish.environments.gymnasium_environment import GymnasiumEnvironment

# Games for two players only: there is nobody to play against.
_TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}


@gin.configurable
def make_atari(
    game: str,
    num_envs: int,
    frame_skip: int = 4,
    max_pool: bool = True,
    sticky_action_probability: float = 0.25,
    zero_discount_on_life_loss: bool = False,
    reward_clipping: bool = False,
    full_action_set: bool = False,
    max_noops: int = 30,
    fire_on_reset: bool = True,
    max_frames_per_episode: int = 108_000,
    image_size: int = 84,
    grayscale: bool = True,
    num_threads: int = 0,
) -> VectorEnvironment:
    """Makes B environments that play one Atari game.

    A row's observation is one uint8 frame, `(1, image_size, image_size)`, or `(3, …)` in colour. Frames are never
    stacked here: `FrameStack` does that where they are used, so that each is stored once.

    The defaults are the protocol of Machado et al. 2018 (sticky actions, an episode is a whole game). That of Mnih et
    al. 2015 has `sticky_action_probability = 0`, `zero_discount_on_life_loss = True` and `reward_clipping = True` in
    training; in evaluation the last two are False.

    A row ends an episode (LAST) where the game is over, with discount 0, or has reached its limit, with discount 1. On
    a truncated row the frame is the game's own last one. On a terminated row it is not: ale-py leaves a game's last
    four frames out and shows the frames before; nothing is bootstrapped from it.

    Args:
        game: `"pong"`, `"Pong"` or `"ALE/Pong-v5"`; `"ms_pacman"` or `"MsPacman"`.
        num_envs: B, at least 1.
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
        num_threads: threads that play; 0 takes as many as there are cores, at most B. The rows do not depend on it.

    Returns:
        The environments.

    Raises:
        ValueError: an argument cannot be used; the message says what can.
        MissingPackageError: ale-py is not installed; the message holds the pip line.
    """
    ale_vector = optional.require("ale_py.vector_env", "atari")
    _check_arguments(num_envs, frame_skip, sticky_action_probability, max_noops, max_frames_per_episode, image_size)
    rom = _rom(game, optional.require("ale_py.roms", "atari"))

    def make() -> VectorEnv:
        env = ale_vector.AtariVectorEnv(
            rom,
            num_envs,
            num_threads=num_threads,
            # The limit is ours, at a row's end: ale-py's own would show an old frame on the truncated row.
            max_num_frames_per_episode=max_frames_per_episode + 2 * frame_skip,
            repeat_action_probability=sticky_action_probability,
            full_action_space=full_action_set,
            autoreset_mode=AutoresetMode.NEXT_STEP,
            img_height=image_size,
            img_width=image_size,
            grayscale=grayscale,
            stack_num=1,
            frameskip=frame_skip,
            maxpool=max_pool,
            noop_max=max_noops + 1,  # theirs is exclusive
            # Theirs would restart the game, or give no reset row.
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=reward_clipping,
            use_fire_reset=fire_on_reset,
        )
        max_rows = -(-max_frames_per_episode // frame_skip)
        return AtariRows(env, max_rows, zero_discount_on_life_loss)

    return GymnasiumEnvironment(make, f"atari {rom}", seeds_each=True, no_future=_no_future)


def _check_arguments(
    num_envs: int,
    frame_skip: int,
    sticky_action_probability: float,
    max_noops: int,
    max_frames_per_episode: int,
    image_size: int,
) -> None:
    for what, value, least in (
        ("num_envs", num_envs, 1),
        ("frame_skip", frame_skip, 1),
        ("max_noops", max_noops, 0),
        ("max_frames_per_episode", max_frames_per_episode, 1),
        ("image_size", image_size, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{what} is {value!r}; expected a whole number of at least {least}")
    if not 0.0 <= sticky_action_probability < 1.0:
        raise ValueError(f"sticky_action_probability is {sticky_action_probability}; expected 0 ≤ p < 1")


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
        self._single_observation_space = gymnasium.spaces.Box(
            0, 255, (colours[0] if colours else frames, height, width), np.uint8
        )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins new games in all environments."""
        seeds: Any = np.asarray(seed)  # an array, where the base class says a number
        observation, info = self.env.reset(seed=seeds, options=options)
        self._rows[:] = 0
        self._ended[:] = False
        self._cut[:] = False
        self._lives = info["lives"]
        return self._channels_first(observation), info

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
        return observation[:, 0].transpose(0, 3, 1, 2) if self._in_colour else observation
