"""The page: its data, and that nothing in them can become anything else."""

import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest
from viewer_trees import TableModel, episode_of, full_result, searched

from alfish.viewers.shown_tree import shown_tree
from alfish.viewers.tree_html import episode_page, move_json, move_summary

HOSTILE = "</script><script>alert(1)</script><!--<script>&amp;\u2028@@DATA@@"


class Page(html.parser.HTMLParser):
    """The elements of a page and the texts of its scripts, of its title and of its style."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._inside = [], {}, None
        self.feed(text)
        self.close()
        self.scripts = {name: text for name, text in self.texts.items() if name not in ("title", "style")}

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "title", "style"):
            self._inside = dict(attributes).get("id", tag)

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def data(self, name):
        return json.loads(self.scripts[name])


def page_of(results, **options):
    episode, moves = episode_of(results, **options)
    texts = [move_json(move, episode.action_names) for move in moves]
    return episode_page(episode, texts, map(move_summary, moves)), episode, moves


@pytest.fixture(scope="module")
def hostile():
    names = ("left", HOSTILE, "up", "down")
    return page_of([full_result(60), full_result(30)], names=names, title=HOSTILE)[0]


def test_the_data_are_those_of_the_tree():
    text, episode, moves = page_of([full_result(60), full_result(30)])
    page = Page(text)
    common = page.data("episode")
    assert common["title"] == "test/Game-v0"
    assert common["actions"] == ["left", "right", "up", "down"]
    assert common["formulas"] == episode.formulas
    assert [summary[:4] for summary in common["moves"]] == [
        [move.number, move.action, move.reward, move.reward_before] for move in moves
    ]
    for i, move in enumerate(moves):
        data, tree = page.data(f"move-{i}"), move.tree
        nodes = data["nodes"]
        assert nodes["parent"] == tree.parents.tolist()
        assert nodes["action"] == tree.actions.tolist()
        assert nodes["n"] == tree.visits.tolist()
        names = {"q": "q_values", "prior": "priors", "score": "scores", "reward": "rewards", "discount": "discounts"}
        for key, name in (names | {"value": "values", "raw": "raw_values"}).items():
            written = np.array([np.nan if number is None else number for number in nodes[key]])
            np.testing.assert_allclose(written, getattr(tree, name), rtol=1e-4)
        assert nodes["chance"] == tree.is_chance.astype(int).tolist()
        assert nodes["view"] == tree.views.tolist()
        assert data["illegal"]["0"] == [3]
        assert {int(place) for place in data["unvisited"]} == set(tree.unvisited)
        assert (data["numNodes"], data["depth"]) == (tree.num_nodes, tree.depth)
        assert data["plays"] == episode.action_names[move.action]
        assert base64.b64decode(data["picture"]) == move.picture
        assert data["observation"] == move.observation


def test_what_is_the_same_for_all_nodes_is_left_out():
    text, _, _ = page_of([searched(20)])
    assert not {"chance", "view", "player", "label"} & Page(text).data("move-0")["nodes"].keys()


def test_what_is_not_finite_is_null():
    data = json.loads(move_json(episode_of([searched(0)])[1][0]))
    assert data["range"] == [None, None]
    assert data["nodes"]["q"] == [None]


def test_labels_of_proposed_actions():
    _, moves = episode_of([searched(20)])
    tree = shown_tree(searched(2), label=lambda node, action: f"<{node}>")
    data = json.loads(move_json(moves[0]._replace(tree=tree)))
    assert data["nodes"]["label"] == ["", *(["<0>"] * (len(tree.parents) - 1))] or "<0>" in data["nodes"]["label"]
    assert data["unvisited"]["0"][0][3] == "<0>"


def test_text_from_outside_is_data_only(hostile):
    page = Page(hostile)
    kinds = [tag for tag, _ in page.elements]
    assert kinds.count("script") == 2 + 1 + 1  # two moves, what they have in common, the code
    assert "alert(1)" not in page.scripts["script"]
    assert page.data("episode")["title"] == HOSTILE
    assert page.data("episode")["actions"][1] == HOSTILE
    assert page.texts["title"].startswith("</script><script>alert(1)")  # as text: the parser has decoded it
    for name in ("episode", "move-0", "move-1"):
        assert not re.search(r"[<>&\u2028]", page.scripts[name])


def test_the_page_needs_nothing_else(hostile):
    page = Page(hostile)
    assert not [tag for tag, attributes in page.elements if {"src", "href"} & attributes.keys()]
    assert "@import" not in page.texts["style"]
    assert "url(" not in page.texts["style"]
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|WebSocket|innerHTML|outerHTML|eval|import)\b", page.scripts["script"]
    )
    assert "@@" not in hostile.replace(json.dumps("@@DATA@@")[1:-1], "")


def test_the_policy_names_this_script_and_this_style(hostile):
    page = Page(hostile)
    (policy,) = (a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, text in (("script-src", page.scripts["script"]), ("style-src", page.texts["style"])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_large_trees_stay_small():
    """A page of 100 moves with 800 simulations each stays below 20 MB."""
    result = searched(800, model=TableModel(num_actions=18))
    _, (move,) = episode_of([result])
    assert len(move_json(move)) < 200_000
