"""Links and file names in the documentation lead somewhere."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
CODE_SPAN = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+\s+(.+?)\s*$", re.MULTILINE)
REPOSITORY_PATH = re.compile(r"(?:alfish|benchmarks|docs|tests)/[\w./-]*")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings: lower case, punctuation dropped, spaces as hyphens."""
    titles = (heading.replace("`", "") for heading in HEADING.findall(FENCE.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(text: str, folder: pathlib.Path) -> list[str]:
    """The relative links of a page in `folder` that lead to no file, or to no heading in it."""
    broken = []
    for target in LINK.findall(CODE_SPAN.sub("", FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = folder / path
        found = file.exists() and (not anchor or anchor in anchors(file.read_text() if path else text))
        if not found:
            broken.append(target)
    return broken


def missing_files(text: str, root: pathlib.Path) -> list[str]:
    """The repository paths in backticks for which there is no file or folder below `root`."""
    spans = CODE_SPAN.findall(FENCE.sub("", text))
    return [span for span in spans if REPOSITORY_PATH.fullmatch(span) and not (root / span).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_file_names_lead_somewhere(page: pathlib.Path):
    text = page.read_text()
    assert broken_links(text, page.parent) == []
    assert missing_files(text, ROOT) == []


def test_the_checks_find_what_is_broken(tmp_path: pathlib.Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("# One `two` three!\n\n```\n# no heading\n```\n")
    text = (
        "# Top\n[a](docs/other.md) [b](docs/gone.md) [c](docs/other.md#one-two-three) [d](docs/other.md#no-heading)\n"
        "[e](https://example.org/x) [f](#top) [g](#bottom) `[h](in_code.md)` ![i](gone.png)\n"
        "`docs/other.md` `docs/nothing.md` `alfish/nothing.py` `docs/` `docs/<name>.md` `some/other.py`\n"
        "```\n[j](in_a_fence.md)\n```\n"
    )
    assert broken_links(text, tmp_path) == ["docs/gone.md", "docs/other.md#no-heading", "#bottom", "gone.png"]
    assert missing_files(text, tmp_path) == ["docs/nothing.md", "alfish/nothing.py"]
