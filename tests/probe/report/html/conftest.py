"""A report with names that would act on a page, and a browser that opens pages and keeps what they ask for."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenprobe.probe.report.contents import Report

IMAGE, SCRIPT = "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"
HEADS = {"ep": "queries=8", "linear": "pool=mean", "ridge": "pool=mean"}
N_PARAMS = {"ep": 18_698, "linear": 1_290, "ridge": 1_290}
EPOCHS = range(1, 4)


@pytest.fixture
def report(make_report: Callable[..., Report]) -> Report:
    """One backbone, three heads, three layers and two numbers of shots, at two rates of which the first is selected."""
    rows, history = [], []
    for shots, less in (("full", 0.0), ("4", 0.2)):
        for layer in range(3):
            for place, (head, config) in enumerate(HEADS.items()):
                test = 0.7 - 0.1 * place + 0.05 * layer - less
                for lr in (1.0, 10.0):
                    cell = f"none-layer_0{layer}-{head}-{shots}-{lr}"
                    figures = {"test": test, "val_top1": test} if lr == 1.0 else {"test": 0.35, "val_top1": 0.35}
                    rows.append(
                        {"cell": cell, "layer": str(layer), "head": head, "head_config": config, "lr": lr}
                        | {"shots": shots, "selected": lr == 1.0, "best_epoch": 2, "n_params": N_PARAMS[head]}
                        | {"name": IMAGE, "store": SCRIPT, "dataset": SCRIPT}
                        | figures
                    )
                    history += [{"cell": cell, "epoch": epoch, "test": test - 0.01 * epoch} for epoch in EPOCHS]
    return make_report(*rows, history=history_table(history))


def history_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    figures = {f"{split}_top1": table["test"] for split in ("val", "test")}
    return table.drop(columns="test").assign(train_loss=1 / table["epoch"], val_map=np.nan, test_map=np.nan, **figures)


class Opened:
    """A page in a browser.

    Attributes:
        page: to drive.
        said: what it wrote to the console, and errors of its scripts.
        asked: addresses that it asked for, other than its own.
    """

    def __init__(self, page: Any, file: Path) -> None:
        self.page, self.said, self.asked = page, list[str](), list[str]()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", self._dismiss)
        page.route("**/*", lambda route: self._answer(route, file.as_uri()))
        page.goto(file.as_uri())

    def _dismiss(self, dialog: Any) -> None:
        self.said.append("dialog")
        dialog.dismiss()

    def _answer(self, route: Any, own: str) -> None:
        if route.request.url == own:
            route.continue_()
        else:
            self.asked.append(route.request.url)
            route.abort()

    def column(self, name: str) -> list[str]:
        """Return the texts of a column of the table, as far as its page shows them."""
        code = """name => {
            const heads = [...document.querySelectorAll('#table th')];
            const place = heads.findIndex(th => th.dataset.name === name);
            return [...document.querySelectorAll('#table tbody tr')].map(row => row.cells[place].textContent);
        }"""
        found: list[str] = self.page.evaluate(code, name)
        return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start Chromium. Tests are skipped where it, or playwright, is not installed."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with driver.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Open a page of HTML. At the end it must have said nothing and asked for nothing."""
    opened: list[Opened] = []

    def open_(text: str, **options: Any) -> Opened:
        file = tmp_path / "report.html"
        file.write_text(text, encoding="utf-8")
        opened.append(Opened(browser.new_page(**options), file))
        return opened[-1]

    yield open_
    for each in opened:
        each.page.close()
        assert (each.said, each.asked) == ([], [])
