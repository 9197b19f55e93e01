"""Hooks of mkdocs: pages that lie outside docs/, the notebook as a page, and links that also work on GitHub."""

import json
import re
import tomllib
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MADE_FROM = {
    "index.md": "README.md",
    "quickstart.md": "docs/quickstart.ipynb",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
}
LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Show mkdocstrings the package under its own name, whatever the clone is called: links to its modules alone."""
    for package in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]:
        inside = package.split(".")[1:]
        folder = ROOT.joinpath("build", "import", *package.split("."))
        folder.mkdir(parents=True, exist_ok=True)
        for module in ROOT.joinpath(*inside).glob("*.py"):
            link = folder / module.name
            link.unlink(missing_ok=True)
            link.symlink_to(module)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source lies elsewhere."""
    for page, source in MADE_FROM.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    """Turn a notebook into Markdown."""
    source = Path(str(page.file.abs_src_path))
    return markdown_of(json.loads(source.read_text())) if source.suffix == ".ipynb" else None


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links, which name files of the repository: to a page of the site, or plain words."""
    source = Path(str(page.file.abs_src_path))
    on_site = {Path(file.abs_src_path): file.src_uri for file in files if file.abs_src_path}

    def rewritten(link: re.Match[str]) -> str:
        image, words, target, anchor = link.groups(default="")
        path = (source.parent / target).resolve()
        if path in on_site:
            return f"{image}[{words}]({relpath(on_site[path], dirname(page.file.src_uri))}{anchor})"
        return words if path.exists() else link[0]  # mkdocs warns of a link that leads nowhere

    return LINK.sub(rewritten, markdown)


def markdown_of(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook as Markdown, with their outputs: text, and pictures."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [shown(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts)


def shown(output: dict[str, Any]) -> str:
    """Return an output of a notebook's cell as Markdown."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{data['image/png'].strip()})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"
