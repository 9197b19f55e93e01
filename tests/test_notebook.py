"""docs/quickstart.ipynb runs, on a few images. `python tests/test_notebook.py` runs it in full and writes outputs."""

import ast
import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"
SHORT = {"LIMIT = 1000": "LIMIT = 200", "epochs=EPOCHS": "epochs=5, layers=[3, 5]"}


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs_of(sources: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Run cells one after another, and yield the outputs of each: printed text, and the value of its last line."""
    names: dict[str, Any] = {}
    for number, source in enumerate(sources, start=1):
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        printed, value = StringIO(), None
        with redirect_stdout(printed):
            exec(compile(tree, "cell", "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        text = [{"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())}]
        yield (text if printed.getvalue() else []) + ([] if value is None else [result(value, number)])


def result(value: Any, number: int) -> dict[str, Any]:
    data: dict[str, Any] = {"text/plain": lines(repr(value))}
    if hasattr(value, "_repr_png_"):
        data = {"image/png": base64.b64encode(value._repr_png_()).decode(), "text/plain": ["a picture"]}
    return {"output_type": "execute_result", "execution_count": number, "data": data, "metadata": {}}


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def kinds(outputs: list[dict[str, Any]]) -> list[list[str]]:
    return [sorted(output.get("data", [output.get("name")])) for output in outputs]


@pytest.mark.slow
def test_the_notebook_runs_and_its_head_gives_the_figure_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = code_cells(json.loads(NOTEBOOK.read_text()))
    sources = ["".join(cell["source"]) for cell in cells]
    for full, short in SHORT.items():
        assert sum(source.count(full) for source in sources) == 1
        sources = [source.replace(full, short) for source in sources]
    made = list(outputs_of(sources))
    assert [kinds(outputs) for outputs in made] == [kinds(cell["outputs"]) for cell in cells], "write it anew"
    assert made[2][0]["text"][0].startswith("200 images, layers [0, 1, 2, 3, 4, 5], classes T-shirt/top")
    for outputs in (made[-1], cells[-1]["outputs"]):
        found = re.fullmatch(r"(0\.\d{3}) here, (0\.\d{3}) in the table\n", "".join(outputs[0]["text"]))
        assert found and found[1] == found[2]


def test_the_outputs_are_small_and_name_no_machine() -> None:
    text = NOTEBOOK.read_text()
    assert len(text) < 300_000
    plain = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.findall(r"(?<![\w./])/(?:home|root|tmp|usr|work)\b|stderr", plain)


def write() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    cells = code_cells(notebook)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for number, outputs in enumerate(outputs_of(["".join(cell["source"]) for cell in cells])):
            cells[number] |= {"outputs": outputs, "execution_count": number + 1}
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
