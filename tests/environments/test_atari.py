"""Atari: the preprocessing, episode ends, lives and seeds."""

import gin
import numpy as np
import pytest
import torch
from environment_rows import collect, column, empty_row, same

from alfish import gin_config, specs
from alfish.data_structures import StepType
from alfish.environments.atari import AtariPreprocessing, make_atari
from alfish.environments.gymnasium_adapter import make_gymnasium

ale_py = pytest.importorskip("ale_py", reason='needs pip install "alfish[atari]"')


def atari(game, num_envs, num_threads=0, **preprocessing):
    return make_atari(game, num_envs, AtariPreprocessing(**preprocessing), num_threads)


def test_specs():
    environment = atari("breakout", 2)
    assert environment.observation_spec == specs.BoundedTensorSpec((1, 84, 84), torch.uint8, 0, 255)
    assert environment.action_spec == specs.BoundedTensorSpec((), torch.int64, 0, 3)
    assert atari("breakout", 1, full_action_set=True).action_spec.num_values == 18
    assert atari("breakout", 1, image_size=96, grayscale=False).observation_spec.shape == (3, 96, 96)


def test_the_registered_games_have_no_preprocessing_and_their_vector_environment_is_refused():
    environment = make_gymnasium("ALE/Pong-v5", 1)
    environment.close()
    assert environment.observation_spec.shape == (210, 160, 3)
    for name in ("ALE/Pong-v5", "ale_py:ALE/MsPacman-v5"):
        with pytest.raises(ValueError, match=f"native vector environment of '{name}' clips .*; use make_atari"):
            make_gymnasium(name, 1, "native")


@pytest.mark.parametrize("grayscale", [True, False])
def test_a_rendered_frame_is_the_observation_enlarged(grayscale):
    environment = make_atari("pong", 2, AtariPreprocessing(grayscale=grayscale), render_mode="rgb_array")
    row = empty_row(environment)
    environment.reset(0, row)
    for _ in range(40):
        environment.step(torch.tensor([2, 3]), row)
    frame = environment.render()
    assert frame.shape == (336, 336, 3)
    assert frame.dtype == np.uint8
    seen = row.observation[0].permute(1, 2, 0).expand(84, 84, 3).numpy()
    for i, j in ((0, 0), (3, 1)):
        assert np.array_equal(frame[i::4, j::4], seen)
    assert environment.frames_per_second == 15
    environment.close()


@pytest.mark.parametrize("game", ["ms_pacman", "MsPacman", "ALE/MsPacman-v5", "mspacman"])
def test_names_of_a_game(game):
    assert atari(game, 1).name == "atari ms_pacman"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"game": "breakot"}, "did you mean 'breakout'"),
        ({"game": "combat"}, "no Atari game 'combat'"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"frame_skip": 0}, "frame_skip is 0"),
        ({"frame_skip": 2.5}, "frame_skip is 2.5"),
        ({"max_noops": -1}, "max_noops is -1"),
        ({"sticky_action_probability": 1.0}, "expected 0 ≤ p < 1"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    with pytest.raises(ValueError, match=message):
        atari(**{"game": "pong", "num_envs": 1, **arguments})


@pytest.mark.parametrize("game", ["breakout", "qbert"])
def test_rows_follow_from_seed_and_actions(game):
    environment = atari(game, 2, max_frames_per_episode=200)
    first = collect(environment, seed=5, steps=120)
    collect(environment, seed=6, steps=30, action_seed=1)
    assert same(first, collect(environment, seed=5, steps=120))
    assert same(first, collect(atari(game, 2, max_frames_per_episode=200, num_threads=1), seed=5, steps=120))
    assert not same(first, collect(environment, seed=6, steps=120))


def test_time_limit_truncates_with_the_games_own_frame():
    limited = collect(atari("breakout", 2, max_frames_per_episode=78), seed=1, steps=45)
    free = collect(atari("breakout", 2), seed=1, steps=20)
    assert same(limited[:20], free[:20])
    assert column(limited, "step_type")[20:22] == [StepType.LAST, StepType.FIRST]  # 20 rows are 80 frames
    assert column(limited, "discount")[20:22] == [1.0, 1.0]
    assert torch.equal(limited[20].observation, free[20].observation)
    assert not torch.equal(limited[20].observation, limited[19].observation)
    assert column(limited, "reward")[21] == 0
    assert column(limited, "step_type")[41:43] == [StepType.LAST, StepType.FIRST]


def test_a_cut_leaves_the_other_environments_alone():
    """The rows of environment 0 are the same beside one that is cut at other rows."""
    two = atari("breakout", 2, max_frames_per_episode=1200)
    actions = torch.randint(0, 4, (700, 2), generator=torch.Generator().manual_seed(0))
    alone = atari("breakout", 1, max_frames_per_episode=1200)
    two.reset(9, pair := empty_row(two))
    alone.reset(9, single := empty_row(alone))
    ends = [0, 0]
    for action in actions:
        two.step(action, pair)
        alone.step(action[:1], single)
        ends = [count + int(end) for count, end in zip(ends, pair.is_last(), strict=True)]
        assert torch.equal(pair.observation[0], single.observation[0])
        assert pair.step_type[0] == single.step_type[0]
        assert pair.reward[0] == single.reward[0]
    assert min(ends) >= 2


def test_lost_lives_have_discount_zero_and_the_game_goes_on():
    noticed = collect(atari("breakout", 1, zero_discount_on_life_loss=True), seed=0, steps=260)
    plain = collect(atari("breakout", 1), seed=0, steps=260)
    end = column(plain, "step_type").index(StepType.LAST)
    lost = [t for t, discount in enumerate(column(noticed, "discount")) if discount == 0 and t <= end]
    assert len(lost) == 5  # the last one is the game's end
    assert lost[-1] == end
    assert column(plain, "discount")[: end + 1] == [1.0] * end + [0.0]
    assert column(noticed, "step_type") == column(plain, "step_type")
    assert column(noticed, "reward") == column(plain, "reward")
    assert column(noticed, "discount")[end + 1] == 1.0


def test_rewards_are_raw_unless_clipped():
    raw = collect(atari("qbert", 1), seed=0, steps=150)
    clipped = collect(atari("qbert", 1, reward_clipping=True), seed=0, steps=150)
    assert max(column(raw, "reward")) == 25
    assert column(clipped, "reward") == np.clip(column(raw, "reward"), -1, 1).tolist()


def test_noops_and_fire_at_the_beginning():
    def frames(**arguments):
        environment = atari("breakout", 1, **arguments)
        environment.reset(0, empty_row(environment))
        # Later games draw from the same stream; a reset without a seed is fast.
        games = [environment._env.env.reset()[1]["episode_frame_number"][0] for _ in range(60)]
        return set(map(int, games))

    assert frames(max_noops=0, fire_on_reset=False) == {0}
    assert frames(max_noops=0) == {1}
    assert frames(max_noops=5, fire_on_reset=False) == {0, 1, 2, 3, 4, 5}
    assert frames(max_noops=5) == {1, 2, 3, 4, 5}


def test_sticky_actions_differ_from_plain_ones():
    plain, sticky = (collect(atari("breakout", 1, sticky_action_probability=p), seed=0, steps=60) for p in (0.0, 0.5))
    assert not same(plain, sticky)
    assert same(plain[:1], collect(atari("breakout", 1, sticky_action_probability=0.0), seed=0, steps=0))


def test_gin_configures_the_preprocessing_by_scope():
    gin_config.parse_text(
        "import alfish.environments.atari\n"
        'make_atari.game = "breakout"\n'
        "AtariPreprocessing.image_size = 42\n"
        "AtariPreprocessing.reward_clipping = True\n"
        "evaluation/AtariPreprocessing.reward_clipping = False\n"
    )
    assert make_atari(num_envs=1).observation_spec.shape == (1, 42, 42)
    with gin.config_scope("evaluation"):
        assert AtariPreprocessing() == AtariPreprocessing(image_size=42, reward_clipping=False)


def test_frozen_games_repeat_their_last_row_and_begin_with_the_window():
    chosen = AtariPreprocessing(max_frames_per_episode=40, max_noops=0, sticky_action_probability=0.0)
    games = [make_atari("pong", 2, chosen, num_threads=1, freeze_after_end=freezes) for freezes in (True, False)]
    frozen, going_on = ([empty_row(game)] for game in games)
    for game, rows in zip(games, (frozen, going_on), strict=True):
        game.reset(3, rows[0])
        for step in range(44):
            if game.freezes and step % 22 == 0:
                game.begin_window()
            game.step(torch.zeros(2, dtype=torch.int64), row := empty_row(game))
            rows.append(row)
        game.close()
    F, M, L = StepType.FIRST, StepType.MID, StepType.LAST
    episode = [M] * 9 + [L]
    assert column(frozen, "step_type") == [F, *episode, *[L] * 12, F, *episode, *[L] * 11]
    assert column(going_on, "step_type")[:22] == [F, *episode, F, *episode]
    assert same(frozen[:11], going_on[:11])
    assert all(torch.equal(row.observation, frozen[10].observation) for row in frozen[11:23])
    # Without random numbers every game is the same one.
    assert torch.equal(frozen[23].observation, frozen[0].observation)
    assert torch.equal(frozen[33].observation, frozen[10].observation)
    assert column(frozen, "discount") == [1.0] * 45
