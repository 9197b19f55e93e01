"""`report.html`: one file with its style, its scripts and the report as JSON. It asks for nothing from elsewhere.

Names that people chose stay text. The JSON holds no `<`, so nothing in it can end its element, and the scripts write it
into the page as text alone. The page's own policy lets a browser run these two elements and load nothing else.
"""

import json
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from ..contents import Report
from .payload import payload

SCRIPTS = ("dom.js", "table.js", "chart.js", "figures.js", "gallery.js", "page.js")
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
"""Characters of HTML, as JSON may write them. JSON has them inside texts alone."""


def html_page(report: Report) -> str:
    """Return `report.html`."""
    return fill_page(payload(report))


def fill_page(content: dict[str, Any]) -> str:
    """Return the page of a payload."""
    style, script = _template("page.css"), "\n".join(map(_template, SCRIPTS))
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src 'sha256-{_digest(style)}'",
            f"script-src 'sha256-{_digest(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return Template(_template("page.html")).substitute(
        policy=policy, title=escape(content["title"]), style=style, script=script, data=embedded(content)
    )


def embedded(content: dict[str, Any]) -> str:
    """Return values as JSON for an element of a page: in ASCII, without any character of HTML."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character, code in ESCAPES.items():
        text = text.replace(character, code)
    return text


def _template(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return b64encode(sha256(text.encode()).digest()).decode()
