"""Poolings from outside the package: registered, installed, or imported by name; and code that runs only with trust."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import load_head
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.heads import POOLINGS, Pooling, build_pooling, find_pooling, register
from tokenprobe.probe.heads.linear import LinearPooling
from tokenprobe.probe.heads.own import checked, installed_names, names_code
from tokenprobe.probe.report.head_list import describe_head, list_heads
from tokenprobe.probe.run.results import Run

PAGE = Path(__file__).parents[3] / "docs" / "your-own.md"
NAME = "mypkg_heads:PowerMean"
TRACE = """
from pathlib import Path

with Path(__file__).with_name("imports").open("a") as file:
    file.write("x")
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget new poolings and their modules afterwards, as a new process would."""
    poolings, modules = dict(POOLINGS), set(sys.modules)
    yield
    forget(poolings, modules)


def forget(poolings: dict[str, type], modules: set[str]) -> None:
    POOLINGS.clear()
    POOLINGS.update(poolings)
    for name in [name for name in sys.modules if name.startswith("mypkg") and name not in modules]:
        del sys.modules[name]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the page's pooling into the working folder, with a trace of every import."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mypkg_heads.py"
    source = PAGE.read_text().split("```python\n")[1].split("```")[0]
    file.write_text(source + TRACE)
    return file


def n_imports(code: Path) -> int:
    trace = code.with_name("imports")
    return len(trace.read_text()) if trace.exists() else 0


def test_a_pooling_by_module_and_class_fits_and_is_loaded_only_with_trust(
    code: Path,
    tiny_config: Callable[..., ExtractConfig],
    image_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = extract(tiny_config(dtype="float32"))
    before = dict(POOLINGS), set(sys.modules)
    flags = ["-o", "run", "--device", "cpu", "--epochs", "2", "--lr", "1", "--layers", "0", "--val", "0.3"]
    path = list(sys.path)
    assert main(["fit", str(store), *flags, "--head", f"{NAME}:power=2.0|3.0", "--head", "linear"]) == 0
    assert sys.path == path and n_imports(code) == 1
    rows = Run(Path("run")).results
    own = rows[rows["head"] == NAME]
    assert len(own) == 2 and own["test_top1"].notna().all()
    cell = own["cell"].iloc[0]
    assert load_head("run", cell)(torch.rand(2, 16, 12)).shape == (2, 3)
    forget(*before)
    capsys.readouterr()
    with pytest.raises(
        InputError, match=rf"^head '{NAME}' runs code of the module 'mypkg_heads'; if you know that code"
    ):
        load_head("run", cell)
    predict = [
        "predict",
        "run",
        "--images",
        str(image_folder / "test"),
        "--cell",
        cell,
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    assert main(predict) == 2
    assert "give --trust-code (in Python: trust_code=True)" in capsys.readouterr().err
    assert n_imports(code) == 1
    assert main([*predict, "--trust-code"]) == 0
    assert n_imports(code) == 2


def test_the_pooling_of_the_page_computes_its_formula(code: Path) -> None:
    (spec,) = parse_heads([NAME])
    assert spec.label == f"{NAME}:power=3.0"
    tokens = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    pool = build_pooling(spec.name, dim=4, grid=(1, 5), power=2.0)
    torch.testing.assert_close(pool(tokens), tokens.square().mean(1).sqrt())
    stacked = build_pooling(spec.name, dim=4, grid=(1, 5), cells=3)
    assert stacked(tokens).shape == (2, 3, 4)
    assert any("power" in line for line in describe_head(NAME))


class Mine(LinearPooling):
    name = "mine"
    title = "mine"
    summary = "The mean."
    source = "none"


def test_a_registered_pooling_is_a_head_by_its_name() -> None:
    assert register(Mine) is Mine is register(Mine) is find_pooling("mine")
    assert parse_heads(["mine:pool=mean"])[0].name == "mine"
    other = type("Other", (LinearPooling,), {"name": "ep"})
    with pytest.raises(InputError, match=r"^head 'ep' is EfficientProbing already; give Other another name$"):
        register(other)
    with pytest.raises(InputError, match=r"^head 'a b': the name of .* must have letters, digits and _ alone$"):
        register(type("Other", (LinearPooling,), {"name": "a b"}))


def test_an_installed_package_offers_a_pooling(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = code.parent / "mypkg-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    points = "[tokenprobe.poolings]\npowermean = mypkg_heads:PowerMean\nbroken = mypkg_heads:Gone\nodd = json:dumps\n"
    (folder / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(code.parent)
    assert installed_names() == ["broken", "odd", "powermean"]
    assert "From installed packages: broken, odd, powermean." in list_heads()
    assert n_imports(code) == 0, "a name alone imports nothing"
    assert parse_heads(["powermean:power=2.0"])[0].name == "powermean"
    assert n_imports(code) == 1
    with pytest.raises(InputError, match=r"^head 'broken': 'mypkg_heads:Gone' cannot be imported: AttributeError: "):
        parse_heads(["broken"])
    with pytest.raises(
        InputError, match=r"^head 'odd' is <function dumps .*>, not a subclass of tokenprobe\.probe\.heads"
    ):
        find_pooling("odd")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "nopkg.heads:Mine",
            "^head 'nopkg.heads:Mine': importing 'Mine' from 'nopkg.heads' fails: ModuleNotFoundError: ",
        ),
        ("json:Gone", "^head 'json:Gone': importing 'Gone' from 'json' fails: AttributeError: "),
        ("json:JSONDecoder", r"^head 'json:JSONDecoder' is <class .*>, not a subclass of "),
        ("epp:queries=8", "^unknown head 'epp'; known: ep, "),
        (".x:Mine", "^unknown head '.x'; known: "),
    ],
)
def test_names_of_no_pooling_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_heads([spec])


def test_a_class_that_lacks_a_part_is_told_which() -> None:
    with pytest.raises(
        InputError, match=r"^head 'x': Bare lacks choose_inputs, initial, pool, title, summary, source; see"
    ):
        checked(type("Bare", (Pooling,), {}), "x")


def test_which_names_are_code() -> None:
    assert names_code("a.b:C") and names_code("a:C")
    assert not any(map(names_code, ("ep", "ep:queries=8", "a.b", ":C", "a:", "1a:C", "a:b:c", "a/b:C")))
