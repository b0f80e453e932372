"""`tree` on a run that was trained here."""

import base64
import json
import re
import sys

import gymnasium
import pytest
from run_commands import run, train_here

from alfish.bin import evaluate, train, tree, tree_outputs

PARAMS = {
    "make_gymnasium.name": '"walk_environment:test/Walk-v0"',
    "TOTAL_ENV_STEPS": 60,
    "NUM_ENVS": 2,
    "NUM_SIMULATIONS": 6,
    "BATCH_SIZE": 4,
    "ReplayBatches.initial_env_steps": 16,
    "Trainer.evaluation_interval": 40,
    "Trainer.checkpoint_interval": 40,
    "Evaluator.episodes": 2,
}


def train_muzero(folder, **params):
    flags = [f"--gin_param={name}={value}" for name, value in (PARAMS | params).items()]
    return run(train, "--gin_file=muzero_cartpole.gin", f"--root_dir={folder}", "--device=cpu", *flags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train_muzero(folder) == 0
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree_here(*flags):
    return run(tree, "--device=cpu", *map(str, flags))


def data_of(page, name):
    (text,) = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def last_error(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_page_of_a_whole_episode(folder, elsewhere, capsys):
    assert tree_here(folder) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^the episode ends with move 5: return \d\.00$", printed, re.MULTILINE)
    assert re.search(r"^wrote tree.html: 5 moves, 35 nodes, 0\.\d MB; open it in a browser$", printed, re.MULTILINE)
    episode = data_of(elsewhere / "tree.html", "episode")
    assert episode["title"] == "walk_environment:test/Walk-v0"
    assert episode["facts"] == [f"weights of {folder}", "6 simulations a move", "Puct", "seed 0"]
    total = 0.0
    for i, (number, action, reward, before, value) in enumerate(episode["moves"]):
        move = data_of(elsewhere / "tree.html", f"move-{i}")
        assert (number, reward, before) == (i + 1, float(action), total)
        assert move["nodes"]["value"][0] == value
        assert move["nodes"]["n"][0] == move["numNodes"] == 7
        assert base64.b64decode(move["picture"]).startswith(b"\x89PNG")
        assert re.fullmatch(rf"\[.*, {i}\. *\]", move["observation"])
        total += reward


def test_the_episode_is_that_of_evaluate(folder, elsewhere, capsys):
    assert run(evaluate, f"--root_dir={folder}", "--episodes=1", "--seed=3", "--device=cpu") == 0
    expected = re.search(r"return (\S+), 5 steps", capsys.readouterr().out).group(1)
    assert tree_here(f"--root_dir={folder}", "--seed=3", "--text") == 0
    assert f"the episode ends with move 5: return {expected}" in capsys.readouterr().out


def test_text_of_some_moves(folder, elsewhere, capsys):
    assert tree_here(folder, "--text", "--first_move=2", "--max_moves=2", "--depth=1", "--simulations=9") == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^move (\d): .* 10 nodes, ", printed, re.MULTILINE) == ["2", "3"]
    assert "9 simulations a move, Puct, seed 0" in printed
    assert "not shown: " in printed
    assert "the episode goes on after move 3" in printed
    assert list(elsewhere.iterdir()) == []


def test_few_visits_are_left_out(folder, elsewhere):
    assert tree_here(folder, "--min_visits=3", "--output=small.html") == 0
    assert tree_here(folder, "--output=large.html") == 0
    assert min(data_of(elsewhere / "small.html", "move-0")["nodes"]["n"]) >= 3
    assert (elsewhere / "small.html").stat().st_size < (elsewhere / "large.html").stat().st_size


def test_the_same_seed_gives_the_same_page(folder, elsewhere):
    for name in "ab":
        assert tree_here(folder, f"--output={name}.html", "--seed=5") == 0
    assert (elsewhere / "a.html").read_bytes() == (elsewhere / "b.html").read_bytes()


def test_the_run_is_left_as_it_is(folder, elsewhere):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert tree_here(folder) == 0
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_page_that_grows_too_large_ends(folder, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(tree_outputs, "LARGEST_PAGE", 1)
    assert tree_here(folder) == 0
    printed = capsys.readouterr().out
    assert (
        "the page ends with move 1, at 0 MB; for more of them leave out nodes with few visits (--min_visits)" in printed
    )
    assert len(data_of(elsewhere / "tree.html", "episode")["moves"]) == 1


def test_an_environment_that_cannot_be_drawn(elsewhere, capsys):
    walk = sys.modules["walk_environment"].Walk

    class Unseen(walk):
        metadata = {"render_modes": []}

        def __init__(self):
            super().__init__()

    gymnasium.register("test/Unseen-v0", entry_point=Unseen)
    try:
        assert train_muzero(elsewhere / "run", **{"make_gymnasium.name": '"test/Unseen-v0"'}) == 0
        assert tree_here(elsewhere / "run") == 0
    finally:
        del gymnasium.registry["test/Unseen-v0"]
    assert "no pictures: 'test/Unseen-v0' cannot be rendered: its metadata" in capsys.readouterr().err
    move = data_of(elsewhere / "tree.html", "move-0")
    assert move["picture"] is None
    assert move["observation"]


def test_an_algorithm_that_does_not_search(elsewhere, capsys):
    assert train_here(elsewhere / "ppo") == 0
    assert tree_here(elsewhere / "ppo") == 1
    assert last_error(capsys) == (
        "error: PPOAlgorithm acts without a search, so there is no tree to look at; give a run of an algorithm that "
        "searches, such as MuzeroAlgorithm"
    )
    assert not (elsewhere / "tree.html").exists()


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        ([], "expected the run's folder, once: python -m alfish.bin.tree RUN"),
        (["nowhere"], "--root_dir=nowhere holds no run: nowhere/config.gin is missing"),
        (["{folder}", "--root_dir={folder}"], "expected the run's folder, once"),
        (["{folder}", "other"], "unexpected argument 'other'"),
        (["{folder}", "--output=no/where.html"], "--output=no/where.html: expected a file in a folder that is there"),
        (["{folder}", "--output=."], "--output=.: expected a file in a folder that is there"),
        (["{folder}", "--first_move=6"], "the episode ends before --first_move; give an earlier one"),
        (["{folder}", "--min_visits=0"], "'0' cannot be used; expected a whole number of at least 1"),
        (["{folder}", "--min_visit=2"], "there is no flag --min_visit; did you mean --min_visits?"),
    ],
)
def test_bad_flags(folder, elsewhere, capsys, flags, cause):
    assert tree_here(*(flag.format(folder=folder) for flag in flags)) == 1
    error = last_error(capsys)
    assert error.startswith("error: ")
    assert cause in error
    assert list(elsewhere.iterdir()) == []
