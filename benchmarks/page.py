"""The report's page in a browser: milliseconds to sort and to search a table of many cells, and the size of the file.

    python benchmarks/page.py RUN [--cells 10000] [--repeats 5]

The cells of the run are repeated to the number asked for. Times are those of the page's own clock, from the click to a
page that is laid out. Needs playwright and Chromium.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tokenprobe.probe.report.contents import gather
from tokenprobe.probe.report.html.page import fill_page
from tokenprobe.probe.report.html.payload import payload
from tokenprobe.probe.run.results import Run

TIMED = "const start = performance.now(); {act}; document.body.offsetHeight; return performance.now() - start;"
SORT = "document.querySelector('th[data-name={name}] button').click()"
SEARCH = (
    "const box = document.querySelector('#filters input'); box.value = '{words}'; box.dispatchEvent(new Event('input'))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    content = payload(gather([Run(asked.run)]))
    repeat_cells(content["table"], asked.cells)
    text = fill_page(content)
    print(f"{asked.cells:,} cells, {len(text) / 1e6:.2f} MB")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = Path(folder) / "report.html"
        file.write_text(text, encoding="utf-8")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        acts = {f"sort by {name}": SORT.format(name=name) for name in ("test", "head", "cell")}
        acts |= {f"search {words!r}": SEARCH.format(words=words) for words in ("linear 3", "")}
        for name, act in acts.items():
            times = [page.evaluate(f"() => {{ {TIMED.format(act=act)} }}") for _ in range(asked.repeats)]
            print(f"{name}: {min(times):.0f} to {max(times):.0f} ms, the first {times[0]:.0f} ms")
        browser.close()


def repeat_cells(table: dict[str, Any], n: int) -> None:
    """Repeat the cells of a table to n."""
    for column in table["columns"]:
        key = "codes" if "codes" in column else "values"
        column[key] = (column[key] * (n // table["n"] + 1))[:n]
    table["n"] = n


if __name__ == "__main__":
    main()
