"""The page as a file, and in a browser: what it shows, how it answers, and that names in it stay text."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.html.page import embedded, html_page
from tokenprobe.probe.report.summary import percent

from .conftest import IMAGE, SCRIPT

MakeReport = Callable[..., Report]
Open = Callable[..., Any]
N_MANY = 10_000


def test_names_cannot_leave_their_element(report: Report) -> None:
    page = html_page(report)
    assert page.count("</script>") == 2 and "<img" not in page and "<script>alert" not in page
    (title,) = re.findall("<title>(.*)</title>", page)
    assert title == f"{IMAGE} on {SCRIPT}".replace("<", "&lt;").replace(">", "&gt;")


def test_json_for_a_page_is_the_same_json() -> None:
    content = {"<!--": ["</script>", "<script>", "&lt;", "\u2028", "é", "\ud800"]}
    text = embedded(content)
    assert json.loads(text) == content and text.isascii() and not set("<>&") & set(text)


def test_the_page_refers_to_nothing_outside(report: Report) -> None:
    page = html_page(report)
    markup = page.partition("<script type")[0]
    assert re.findall(r'<[^>]* (?:src|href)="([^"]*)"', markup) == ["data:,", "#cells"]
    assert set(re.findall(r"https?://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}  # no request


def test_names_stay_text(report: Report, open_page: Open) -> None:
    page = open_page(html_page(report)).page
    assert page.title() == page.locator("h1").inner_text() == f"{IMAGE} on {SCRIPT}"
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    assert SCRIPT in page.locator("#same").inner_text()


def test_class_names_stay_text(report: Report, open_page: Open) -> None:
    images = next(iter(report.images.values()))
    images.classes[:2] = [IMAGE, SCRIPT]
    page = open_page(html_page(report)).page
    shown = page.locator("#confused td").all_inner_texts()
    assert IMAGE in shown and SCRIPT in shown and page.locator("img").count() == 0


def test_a_column_sorts_by_pointer_and_by_key(report: Report, open_page: Open) -> None:
    opened = open_page(html_page(report))
    figures = sorted((round(100 * each, 1) for each in report.cells["test"]), reverse=True)
    header = opened.page.locator("th[data-name=test]")
    header.locator("button").click()
    assert list(map(float, opened.column("test"))) == figures
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").press("Enter")
    assert list(map(float, opened.column("test"))) == figures[::-1]
    opened.page.locator("th[data-name=layer] button").press("Space")
    assert opened.column("layer") == sorted(report.cells["layer"])
    assert [
        each for each, layer in zip(opened.column("test"), opened.column("layer"), strict=True) if layer == "0"
    ] == [
        f"{100 * each:.1f}" for each in sorted(report.cells["test"][report.cells["layer"] == "0"])
    ]  # equal rows keep the order of the sort before


def test_figures_round_as_in_the_tables(make_report: MakeReport, open_page: Open) -> None:
    figures = [0.8425, 0.8475, 0.9985, 0.0005, 0.5, 0.12345, 2 / 3, 0.0025, 0.3315]
    opened = open_page(
        html_page(make_report(*({"test": each, "seed": n} for n, each in enumerate(figures)), keeps=False))
    )
    assert opened.column("test") == [percent(each) for each in figures]


def test_missing_figures_come_last_both_ways(make_report: MakeReport, open_page: Open) -> None:
    rows = [{"head": "aim", "selected": False}, {"test": 0.5}, {"test": 0.6, "seed": 1}]
    opened = open_page(html_page(make_report(*rows)))
    for figures in (["60.0", "50.0", ""], ["50.0", "60.0", ""]):
        opened.page.locator("th[data-name=test] button").click()
        assert opened.column("test") == figures


def test_filters_leave_what_matches(report: Report, open_page: Open) -> None:
    opened, cells = open_page(html_page(report)), report.cells
    page, count = opened.page, opened.page.locator("#pager [role=status]")
    assert count.inner_text() == "Rows 1 to 36 of 36"
    page.get_by_label("Search").fill("RIDGE layer_01")
    wanted = cells[cells["cell"].str.contains("layer_01-ridge")]
    assert opened.column("cell") == wanted["cell"].tolist() and len(wanted) == 4
    page.get_by_label("selected cells only").check()
    assert opened.column("cell") == wanted["cell"][wanted["selected"]].tolist()
    assert count.inner_text() == "Rows 1 to 2 of 2 that match; 36 in all"
    page.get_by_label("Search").fill("nothing has this")
    assert opened.column("cell") == [] and count.inner_text() == "No row of 36 matches"
    page.get_by_label("Search").fill("")
    page.locator("#filters").get_by_label("Head").select_option(label="EP, 8 queries")
    page.locator("#filters").get_by_label("Training data").select_option(label="4 images per class")
    rows = cells[cells["selected"] & (cells["kind"] == "ep") & (cells["shots"] == "4")]
    assert opened.column("cell") == rows["cell"].tolist()


def test_a_point_under_the_pointer_tells_its_cell_and_interval(report: Report, open_page: Open) -> None:
    page = open_page(html_page(report)).page
    (row,) = report.leaders[(report.leaders["kind"] == "ep") & (report.leaders["shots"] == "full")].itertuples()
    mark = page.locator("figure[data-name=layers] .head .mark").nth(2)  # of EP, on its last layer
    mark.hover()
    said = page.locator("#tip").inner_text().splitlines()
    assert said[0] == "EP, 8 queries" and said[1].endswith("layer 2, all training images; the selected layer")
    assert said[2] == f"test top-1 {100 * row.test:.1f} %" and said[-1] == "cell none-layer_02-ep-full-1.0"
    assert said[3] == f"95 % interval {100 * row.low:.1f} to {100 * row.high:.1f} over 200 test images"
    page.locator("h1").hover()
    assert page.locator("#tip").is_hidden()


def test_arrow_keys_read_the_points(report: Report, open_page: Open) -> None:
    page = open_page(html_page(report)).page
    chart = page.locator("figure[data-name=cost] svg")
    chart.press("ArrowRight")
    first = page.locator("#tip").inner_text()
    chart.press("ArrowLeft")  # from the first around to the last: the most parameters
    assert first != page.locator("#tip").inner_text() and page.locator("#tip b").inner_text() == "EP, 8 queries"
    chart.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_the_legend_switches_a_head_off_and_on(report: Report, open_page: Open) -> None:
    page = open_page(html_page(report)).page
    marks, button = page.locator("figure[data-name=layers] .mark"), page.get_by_role("button", name="ridge")
    assert marks.count() == 9
    button.click()
    assert marks.count() == 6 and button.get_attribute("aria-pressed") == "false"
    assert page.locator("figure[data-name=curves] .line").count() == 2
    button.press("Enter")
    assert marks.count() == 9 and button.get_attribute("aria-pressed") == "true"


def test_figures_show_what_the_report_has(report: Report, make_report: MakeReport, open_page: Open) -> None:
    page = open_page(html_page(report)).page
    names = "() => [...document.querySelectorAll('#charts figure')].map(each => each.dataset.name)"
    assert page.evaluate(names) == ["layers", "shots", "cost", "curves"]
    ticks = page.locator("figure[data-name=shots] text").all_text_contents()
    assert ticks.index("4") < ticks.index("all")
    assert page.locator("figure[data-name=layers] .ring").count() == 3
    page.get_by_label("Training data").first.select_option(label="4 images per class")
    assert "With 4 images per class." in page.locator("figure[data-name=layers]").inner_text()


def test_two_backbones_stand_side_by_side(make_report: MakeReport, open_page: Open) -> None:
    rows = [
        {"model": f"timm:{name}", "cell": f"{name}-layer_00-1", "test": test} for name, test in (("a", 0.7), ("b", 0.5))
    ]
    page = open_page(html_page(make_report(*rows))).page
    assert page.locator("figure[data-name=backbones] .mark").count() == 2
    assert {"timm:a", "timm:b"} <= set(page.locator("figure[data-name=backbones] text").all_text_contents())


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_as_wide_as_its_window(report: Report, open_page: Open, width: int, scheme: str) -> None:
    page = open_page(html_page(report), viewport={"width": width, "height": 800}, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 28)"}[scheme]
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_long_names_do_not_widen_the_page(make_report: MakeReport, open_page: Open) -> None:
    rows = [{"name": f"{name} " + "very_long_name" * 9, "cell": f"{name}-layer_00-1", "test": 0.5} for name in "ab"]
    page = open_page(html_page(make_report(*rows)), viewport={"width": 400, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_many_cells_are_sorted_whole_and_drawn_in_part(make_report: MakeReport, open_page: Open) -> None:
    rows: list[dict[str, Any]] = [
        {
            "layer": str(number % 20),
            "head": ("ep", "aim")[number // 20 % 2],
            "lr": float(number),
            "seed": number // 2000,
        }
        | {"test": (number * 7919 % N_MANY) / N_MANY, "selected": False}
        for number in range(N_MANY)
    ]
    text = html_page(make_report(*rows, keeps=False))
    assert len(text) < 3e6
    opened = open_page(text)
    opened.page.locator("th[data-name=test] button").click()
    ordered = sorted((each["test"] for each in rows), reverse=True)
    assert opened.column("test") == [f"{100 * each:.1f}" for each in ordered[:100]]
    opened.page.get_by_role("button", name="Next").press("Enter")
    assert opened.page.locator("#pager [role=status]").inner_text() == "Rows 101 to 200 of 10,000"
    numbers = sorted(range(N_MANY), key=lambda number: -rows[number]["test"])[100:200]
    assert opened.column("cell") == [f"none-layer_00-{number}" for number in numbers]
