"""The documentation site: it builds without a warning, asks no other server for anything, and its pages lead on."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from .shown import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Elements for which a browser fetches something, and the attribute that says where from."""


class Fetched(HTMLParser):
    """Gathers the addresses that a browser fetches to show a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if value and name == LOADING.get(tag)]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", re.sub(r"\]\([^)]*\)", "", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def links_of(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the anchor of each link of a page to a file of the repository."""
    for target in LINK.findall(CODE.sub("code", page.read_text())):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield path, unquote(anchor)


def nav_pages(nav: object) -> Iterator[str]:
    for part in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else [nav]:
        yield from [part] if isinstance(part, str) else nav_pages(part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, anchor in links_of(page):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {path} is not there"
        assert not anchor or anchor in anchors_of(target), f"{page.name}: {path} has no heading #{anchor}"


def test_many_links_are_checked() -> None:
    links = [link for page in PAGES for link in links_of(page)]
    assert len(links) > 50 and sum(bool(anchor) for _, anchor in links) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lists_are_lists_on_github_and_on_the_site(page: Path) -> None:
    """The site wants an empty line before a list, and four spaces before one inside another."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    assert not re.findall(r"^ {1,3}(?:[*-]|\d+\.) .*", text, re.MULTILINE)
    assert not re.findall(r"^(?![*\-#|]|\d+\.|\s).+\n(?:[*-]|\d+\.) .*", text, re.MULTILINE)


def test_the_site_builds_and_is_whole(tmp_path: Path) -> None:
    """All in one test, so that the site is built once."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr  # --quiet would count no warnings
    check_menu(tmp_path)
    check_nothing_is_fetched_elsewhere(tmp_path)
    check_links_of_readme(tmp_path)
    check_reference((tmp_path / "api.html").read_text())
    assert (tmp_path / "quickstart.html").read_text().count('src="data:image/png;base64,') == 2
    assert not list(tmp_path.rglob("*.ipynb")) and not list(tmp_path.rglob("*.py"))


def check_menu(site: Path) -> None:
    menu = yaml.load((ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2], yaml.SafeLoader)
    pages = {str(page.relative_to(site)) for page in site.rglob("*.html")} - {"404.html"}
    assert {page.replace(".md", ".html") for page in nav_pages(menu)} == pages


def check_nothing_is_fetched_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        found = Fetched(page.read_text()).addresses
        assert found and not [address for address in found if re.match(r"(\w+:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", style.read_text()), style


def check_links_of_readme(site: Path) -> None:
    home = (site / "index.html").read_text()
    assert 'href="backbones.html"' in home and 'href="contributing.html"' in home
    assert 'src="images/demo_layer_curve.png"' in home and (site / "images/demo_layer_curve.png").is_file()
    assert 'href="contributing.html">CONTRIBUTING.md</a>' in (site / "architecture.html").read_text()


def check_reference(page: str) -> None:
    for name in ("extract.extract", "probe.FitConfig", "store.Split.tokens", "probe.heads.build_pooling"):
        assert f'id="tokenprobe.{name}"' in page
    assert "Run a frozen backbone once over a data set" in page
