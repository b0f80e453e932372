"""The page in a real browser: what it shows, keys, clicks, widths, light and dark."""

import numpy as np
import pytest
from browser import Browser, find_browser
from viewer_trees import TableModel, episode_of, full_result, searched

from alfish.viewers.tree_html import episode_page, move_json, move_summary

HOSTILE = "<b>right</b><script>window.attacked = true</script>"

pytestmark = pytest.mark.skipif(find_browser() is None, reason="needs an installed Chromium or Chrome")


@pytest.fixture(scope="module")
def browser():
    browser = Browser(find_browser())
    yield browser
    browser.close()


def write_page(file, results, **options):
    episode, moves = episode_of(results, **options)
    texts = [move_json(move, episode.action_names) for move in moves]
    file.write_text(episode_page(episode, texts, map(move_summary, moves)), encoding="utf-8")
    return moves


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "tree.html"
    results = [full_result(number) for number in (60, 80, 100, 200)]
    moves = write_page(file, results, names=("left", HOSTILE, "up", "down"), title=HOSTILE)
    return file.as_uri(), moves


@pytest.fixture
def opened(browser, page):
    browser.resize(1300, 900)
    browser.prefer("light")
    browser.open(page[0])
    yield browser
    assert browser.complaints() == []
    assert browser.run("window.attacked") is None


def text(browser, selector):
    return browser.run(f"document.querySelector('{selector}')?.innerText")


def rows(browser):
    """Path and visits of the rows, from the top."""
    found = browser.run(
        "[...document.querySelectorAll('#tree .row[data-path]')]"
        ".map((row) => [row.dataset.path, row.querySelector('.n').innerText])"
    )
    return [(path, int(visits)) for path, visits in found]


def children(tree, place):
    return np.flatnonzero(tree.parents == place).tolist()


def path_of(tree, place):
    parts = []
    while place > 0:
        parts.insert(0, str(tree.actions[place]))
        place = tree.parents[place]
    return "/".join(parts)


def best_line(tree):
    line = [0]
    while found := children(tree, line[-1]):
        line.append(found[0])
    return line


def test_it_begins_with_the_first_move_and_an_open_root(opened, page):
    tree = page[1][0].tree
    assert text(opened, "#where") == "move 1 of 4"
    assert rows(opened) == [(path_of(tree, place), tree.visits[place]) for place in [0, *children(tree, 0)]]
    assert "illegal: down" in text(opened, "#tree")
    assert text(opened, "#numbers").split("\n")[1] == HOSTILE


def test_text_stays_text(opened):
    assert text(opened, "#title") == f"{HOSTILE}: search trees"
    assert opened.run("document.title") == f"{HOSTILE}: search trees"
    assert opened.run("document.querySelectorAll('b').length") == 1  # the move's number
    assert HOSTILE in text(opened, "#tree")


def test_moves_by_keys_slider_curve_and_buttons(opened, page):
    moves = page[1]

    def shows(number):
        move = moves[number - 1]
        facts = text(opened, "#numbers").split("\n")
        assert text(opened, "#where") == f"move {number} of 4"
        assert facts[facts.index("reward for it") + 1] == f"{move.reward:.0f}"
        assert facts[facts.index("reward so far") + 1] == f"{move.reward_before:.0f}"
        assert text(opened, "#observation") == f"sees state {number}"
        assert rows(opened)[0] == ("", move.tree.visits[0])
        assert opened.run("document.getElementById('slider').value") == str(number - 1)
        assert opened.run("location.hash").startswith(f"#move={number}")

    for key, number in (
        ("ArrowRight", 2),
        ("End", 4),
        ("ArrowRight", 4),
        ("ArrowLeft", 3),
        ("Home", 1),
        ("ArrowLeft", 1),
    ):
        opened.press(key)
        shows(number)
    opened.run("document.getElementById('slider').focus()")
    opened.press("ArrowRight")
    shows(2)
    opened.run(
        "(() => { const s = document.getElementById('slider'); s.value = 2; s.dispatchEvent(new Event('input')); })()"
    )
    shows(3)
    for button, number in (("next", 4), ("previous", 3), ("first", 1), ("last", 4)):
        opened.click(f"#{button}")
        shows(number)
    opened.click("#curve")
    assert text(opened, "#where") in ("move 2 of 4", "move 3 of 4")


def test_pictures_follow_the_moves(opened):
    shown = []
    for _ in range(3):
        shown.append(opened.run("document.getElementById('picture').src"))
        loaded = (
            "document.getElementById('picture').decode().then(() => document.getElementById('picture').naturalWidth)"
        )
        assert opened.run(loaded) == 8
        opened.press("ArrowRight")
    assert len(set(shown)) == 3


def test_nodes_open_and_close(opened, page):
    tree = page[1][0].tree
    closed = rows(opened)
    opened.press("ArrowDown", "Enter")
    first = children(tree, 0)[0]
    below = [path_of(tree, place) for place in children(tree, first)]
    assert [path for path, _ in rows(opened)][1 : 2 + len(below)] == [path_of(tree, first), *below]
    opened.press("Enter")
    assert rows(opened) == closed
    opened.click(f"#tree .row[data-path='{path_of(tree, first)}'] .twist")
    assert len(rows(opened)) == len(closed) + len(below)
    opened.click("#all")
    assert sorted(rows(opened)) == sorted((path_of(tree, i), n) for i, n in enumerate(tree.visits.tolist()))
    opened.click("#none")
    assert rows(opened) == closed


def test_the_most_visited_line(opened, page):
    tree = page[1][0].tree
    opened.press("b")
    line = [path_of(tree, place) for place in best_line(tree)]
    assert set(line) <= {path for path, _ in rows(opened)}
    assert opened.run("document.querySelector('#tree .selected').dataset.path") == line[-1]
    assert f"node={line[-1]}" in opened.run("location.hash")


def test_open_nodes_stay_open_over_the_moves(opened, page):
    opened.press("b")
    paths = [path for path, _ in rows(opened)]
    opened.press("ArrowRight", "ArrowLeft")
    assert [path for path, _ in rows(opened)] == paths


def test_the_details_are_those_of_the_node(opened, page):
    tree = page[1][0].tree
    place = children(tree, 0)[0]
    opened.click(f"#tree .row[data-path='{path_of(tree, place)}'] .label")
    details = text(opened, "#details")
    assert HOSTILE in details
    assert f"{100 * tree.priors[place]:.0f} %" in details
    sign = "−" if tree.q_values[place] < 0 else ""
    assert f"= {sign}{abs(tree.q_values[place]):.{3 if abs(tree.q_values[place]) < 10 else 2}f}" in details
    assert "scaled Q + exploration" in details


def test_a_block_of_the_overview_leads_to_its_row(opened, page):
    tree = page[1][0].tree
    place = best_line(tree)[3]
    opened.click(f"#overview rect[data-place='{place}']")
    assert opened.run("document.querySelector('#tree .selected').dataset.path") == path_of(tree, place)
    assert opened.run("document.querySelector('#overview .selected').dataset.place") == str(place)


def test_the_address_leads_to_a_node(browser, page):
    address, moves = page
    path = path_of(moves[2].tree, best_line(moves[2].tree)[3])
    browser.open(f"{address}#move=3&node={path}")
    assert text(browser, "#where") == "move 3 of 4"
    assert browser.run("document.querySelector('#tree .selected').dataset.path") == path
    browser.open(f"{address}#move=99&node=%22%5D<script>")
    assert text(browser, "#where") == "move 1 of 4"
    assert browser.complaints() == []


def test_playing(opened):
    opened.press("p")
    assert opened.run(
        "new Promise((done) => { const look = () => document.getElementById('where').innerText === 'move 4 of 4'"
        " ? done(true) : setTimeout(look, 50); look(); })"
    )


@pytest.mark.parametrize("width", [360, 390, 700, 1000, 1300])
def test_no_width_needs_scrolling_sideways(browser, page, width):
    browser.resize(width, 800, mobile=width < 600)
    browser.open(page[0])
    browser.press("b")
    assert browser.run("document.documentElement.scrollWidth") == width
    for _ in range(2):
        assert browser.run(
            "[...document.querySelectorAll('section')].every((s) => s.getBoundingClientRect().right <= innerWidth)"
        )
        browser.click("#all")
    browser.resize(1300, 900)


def test_on_a_phone_a_tap_brings_up_the_details(browser, page):
    browser.resize(390, 800, mobile=True)
    browser.open(page[0])
    hidden = "getComputedStyle(document.getElementById('details')).display"
    assert browser.run(hidden) == "none"
    browser.click("#tree .row .label")
    assert browser.run(hidden) == "block"
    browser.click("#details .close")
    assert browser.run(hidden) == "none"
    browser.resize(1300, 900)


def test_light_and_dark(opened):
    def brightness():
        colour = opened.run("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert brightness() > 600
    opened.prefer("dark")
    assert brightness() < 200
    opened.click("#theme")
    assert brightness() > 600
    opened.click("#theme")
    assert brightness() < 200


def test_only_what_is_open_has_elements(browser, tmp_path):
    model = TableModel(num_actions=18)
    results = [searched(800, states=(state,), model=model) for state in range(1, 13)]
    file = tmp_path / "large.html"
    write_page(file, results, names=())
    browser.open(file.as_uri())
    for _ in results:
        browser.press("ArrowRight")
        assert browser.run("document.querySelectorAll('#tree *').length") < 600
    assert text(browser, "#where") == "move 12 of 12"
    assert browser.complaints() == []


@pytest.mark.parametrize(
    "result", [searched(0), searched(1), searched(30, model=TableModel(num_actions=1))], ids=["none", "one", "narrow"]
)
def test_small_trees(browser, tmp_path, result):
    file = tmp_path / "small.html"
    write_page(file, [result], names=())
    browser.open(file.as_uri())
    browser.press("b", "ArrowRight", "ArrowDown")
    assert text(browser, "#where") == "move 1 of 1"
    assert rows(browser)[0][0] == ""
    assert browser.complaints() == []
