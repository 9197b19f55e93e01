"""The gallery: which pictures it has, how many bytes they take, and how it answers keys in a browser."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.html import gallery as module
from tokenprobe.probe.report.html.gallery import gallery
from tokenprobe.probe.report.html.page import html_page

from .conftest import IMAGE, SCRIPT

Open = Callable[..., Any]
WORST, BEST = "none-layer_00-ep-4-1.0", "none-layer_02-ep-full-1.0"


def draw(report: Report, cell: str, name: str, size: tuple[int, int] = (90, 60), colour: int = 0) -> Path:
    file = report.runs[0].path / "attention" / cell / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, (colour, 255 - colour, 0, 255)).save(file)
    return file


def opened(picture: dict[str, Any]) -> Image.Image:
    kind, _, text = picture["image"].partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_pictures_are_those_of_the_cells_of_the_report_the_best_first(report: Report) -> None:
    assert gallery(report) == {"pictures": [], "left_out": 0}
    draw(report, WORST, "attention.png", colour=250)
    draw(report, BEST, "maps.png", (2400, 1200))
    draw(report, BEST, "attention.png")
    draw(report, BEST, "other.png")
    draw(report, "not a cell", "maps.png")
    (report.runs[0].path / "attention" / "a file").write_text("")
    found = gallery(report)
    assert [(each["cell"], each["title"].split(",")[0]) for each in found["pictures"]] == [
        (BEST, "merged map"), (BEST, "every map"), (WORST, "merged map")
    ]  # fmt: skip
    assert found["left_out"] == 0
    first, wide, last = map(opened, found["pictures"])
    assert first.size == (90, 60) and wide.size == (1200, 600) == (found["pictures"][1]["width"], 600)
    np.testing.assert_allclose(np.asarray(last)[30, 45], (250, 5, 0), atol=12)


def test_damaged_and_too_many_pictures_are_counted(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(report, BEST, "attention.png")
    draw(report, BEST, "maps.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    draw(report, BEST, "layers.png").write_text("<svg onload=alert(1)>")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    Image.fromarray(noise).save(draw(report, WORST, "attention.png"))
    assert [len(gallery(report)["pictures"]), gallery(report)["left_out"]] == [2, 2]
    assert module.MOST_BYTES < 10_000_000  # the page stays below 15 MB
    monkeypatch.setattr(module, "MOST_BYTES", 5000)
    assert [len(gallery(report)["pictures"]), gallery(report)["left_out"]] == [1, 3]
    monkeypatch.setattr(module, "MOST_PIXELS", 90 * 60 - 1)
    assert [len(gallery(report)["pictures"]), gallery(report)["left_out"]] == [0, 4]


def test_the_gallery_is_used_by_keys_and_names_stay_text(report: Report, open_page: Open) -> None:
    draw(report, BEST, "attention.png", colour=10)
    draw(report, WORST, "attention.png", colour=250)
    page = open_page(html_page(report)).page
    buttons, dialog = page.locator("#gallery button"), page.locator("#viewer")
    assert buttons.count() == page.locator("img").count() == 2 and not dialog.is_visible()
    loaded = "() => [...document.images].every(each => each.complete && each.naturalWidth === 90)"
    page.wait_for_function(loaded)
    assert f"{IMAGE} on {SCRIPT}" in page.locator("#gallery figcaption").first.inner_text()
    assert (
        page.locator("#gallery img").first.get_attribute("alt")
        == "EP, 8 queries, layer 2: " + module.PICTURES["attention.png"]
    )
    buttons.first.press("Enter")
    words = page.locator("#viewer-words")
    assert dialog.is_visible() and "(1 of 2)" in words.inner_text() and BEST in words.inner_text()
    page.keyboard.press("ArrowRight")
    assert "(2 of 2)" in words.inner_text() and WORST in words.inner_text()
    page.keyboard.press("ArrowRight")
    page.locator("#viewer-before").click()
    assert "(2 of 2)" in words.inner_text()
    page.keyboard.press("Escape")
    assert not dialog.is_visible() and page.evaluate("document.activeElement.closest('#gallery') !== null")


def test_a_page_without_maps_has_no_gallery(report: Report, open_page: Open) -> None:
    assert not open_page(html_page(report)).page.locator("#attention").is_visible()
