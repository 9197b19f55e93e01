"""A release says the same of itself everywhere: its version, its date, and the versions that CI tests."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tokenprobe

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def of_ci() -> dict[str, set[str]]:
    """Return the dependencies that CI tests with each Python."""
    found: dict[str, set[str]] = {}
    for entry in load(WORKFLOWS / "checks.yml")["jobs"]["quick"]["strategy"]["matrix"]["include"]:
        found.setdefault(entry["python"], set()).add(entry["versions"])
    return found


def test_changelog_citation_and_package_name_one_version_and_date() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    newest = re.fullmatch(r"(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)", headings[1])
    assert newest, headings[1]
    citation = load(ROOT / "CITATION.cff")
    assert newest.groups() == (tokenprobe.__version__, str(citation["date-released"]))
    assert citation["version"] == tokenprobe.__version__


def test_the_table_of_versions_is_what_ci_tests() -> None:
    section = (ROOT / "README.md").read_text().split("| Python | dependencies |\n", 1)[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\d\.\d+) \| (.*) \|$", section, re.MULTILINE)
    assert {python: set(versions.split(", ")) for python, versions in rows} == of_ci()


def test_the_package_names_the_versions_that_ci_tests() -> None:
    prefix = "Programming Language :: Python :: 3."
    named = [line.removeprefix(prefix) for line in project()["classifiers"] if line.startswith(prefix)]
    assert {f"3.{minor}" for minor in named} == of_ci().keys()
    lowest = min(of_ci(), key=lambda python: int(python.partition(".")[2]))
    assert project()["requires-python"] == f">={lowest}"
    assert of_ci()[lowest] == {"lowest", "newest"}


def test_locked_versions_are_within_the_bounds() -> None:
    """A raised bound needs a new lock file: make lock. pip freeze leaves setuptools out."""
    lines = (ROOT / "requirements-dev.lock").read_text().splitlines()[1:]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == [], "names and versions alone"
    locked = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    asked = [Requirement(text) for text in project()["dependencies"] + project()["optional-dependencies"]["dev"]]
    found = {each: locked.get(canonicalize_name(each.name), "none") for each in asked if each.name != "setuptools"}
    assert {str(each): pin for each, pin in found.items() if pin == "none" or pin not in each.specifier} == {}


def test_a_release_is_published_without_a_password_and_only_by_a_tag() -> None:
    workflow = load(WORKFLOWS / "publish.yml")
    assert workflow[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}  # `on` is a truth value in YAML 1.1
    publish = workflow["jobs"]["publish"]
    assert (publish["permissions"], publish["environment"], publish["needs"]) == (
        {"id-token": "write"},
        "pypi",
        "build",
    )
    assert "secrets." not in (WORKFLOWS / "publish.yml").read_text()
