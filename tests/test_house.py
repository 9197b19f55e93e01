"""The house rules that a machine can check: who imports whom, what is packaged, what loads when."""

import ast
import json
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import TypeVar

import pytest

import tokenprobe

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "errors": set(),
    "runtime": {"errors"},
    "store": {"runtime", "errors"},
    "engines": {"runtime", "errors"},
    "extract": {"store", "engines", "runtime", "errors", "__version__"},
    "probe": {"store", "engines", "runtime", "errors", "__version__"},
    "testing": {"probe", "store", "errors"},
    "workflows": {"extract", "probe", "store", "runtime", "errors"},
    "commands": {"engines", "workflows", "extract", "probe", "store", "runtime", "errors"},
    "cli": {"commands", "runtime", "errors", "__version__"},
    "__main__": {"cli"},
    "__init__": {"runtime"},
}
PROBE_FLOORS = (
    ("presets",),
    ("config", "heads"),
    ("batches", "solvers"),
    ("grid",),
    ("logs", "training"),
    ("planning",),
    ("run",),
    ("fitting", "report"),
    ("pipeline",),
    ("__init__",),
)
"""The rooms of `probe/`, from the ground up: a room imports from floors below its own."""
COMMANDS = (
    *("extract", "models", "datasets", "heads", "presets", "fit", "demo", "info", "verify", "merge", "export"),
    *("report", "attend", "predict"),
)
ROOT_FILES = {"__init__.py", "__main__.py", "cli.py", "errors.py"}
ONLY_A_FORMULA = ("cae", "dinovit", "esimpool", "siglip", "simpool")
"""Poolings with nothing to test but their formula and what all share."""
NOT_THE_PACKAGE = {"tests", "benchmarks", "examples", "docs", "assets", "build"}


def package_files() -> list[Path]:
    folders = [p for p in ROOT.iterdir() if p.is_dir() and p.name in MAY_IMPORT]
    return sorted([*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def imported_names(file: Path) -> Iterator[tuple[str, ...]]:
    """Yield the parts of each name of the package that a file imports, wherever in the file it does."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else ()))
            yield from ((*base, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("tokenprobe"), f"{file}: absolute import of the package itself"
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("tokenprobe") for alias in node.names), file


def imported_files(file: Path) -> set[Path]:
    """Return the files of the package that a file imports from: functions and TYPE_CHECKING count too."""
    found = set()
    for name in imported_names(file):
        module, holder = ROOT.joinpath(*name), ROOT.joinpath(*name[:-1])
        candidates = [
            module.with_suffix(".py"),
            module / "__init__.py",
            holder.with_suffix(".py"),
            holder / "__init__.py",
        ]
        found.add(next(candidate for candidate in candidates if candidate.is_file()))
    return found


def circle_of(imports: Mapping[T, Set[T]]) -> list[T]:
    """Return nodes that import one another in a circle, in order, or nothing if there is no circle."""
    done: set[T] = set()

    def walk(path: list[T]) -> list[T]:
        for following in sorted(imports[path[-1]], key=str):
            if following in path:
                return path[path.index(following) :]
            if following not in done and (circle := walk([*path, following])):
                return circle
        done.add(path[-1])
        return []

    return next((circle for node in imports if node not in done and (circle := walk([node]))), [])


def test_the_root_holds_no_other_modules() -> None:
    assert {file.name for file in ROOT.glob("*.py")} == ROOT_FILES


@pytest.mark.parametrize("file", package_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    assert {name[0] for name in imported_names(file)} <= MAY_IMPORT[own] | {own}


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circle_of({file: imported_files(file) for file in package_files()}) == []


def test_a_circle_is_found() -> None:
    assert circle_of({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert circle_of({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d"]
    assert circle_of({"a": {"a"}}) == ["a"]


def rooms_of_probe() -> dict[str, set[Path]]:
    files = [file for file in package_files() if file.is_relative_to(ROOT / "probe")]
    rooms: dict[str, set[Path]] = {}
    for file in files:
        rooms.setdefault(file.relative_to(ROOT / "probe").parts[0].removesuffix(".py"), set()).add(file)
    return rooms


def test_every_room_of_probe_stands_on_a_floor() -> None:
    assert sorted(room for floor in PROBE_FLOORS for room in floor) == sorted(rooms_of_probe())
    assert len(PROBE_FLOORS) <= 10


@pytest.mark.parametrize("floor", range(len(PROBE_FLOORS)), ids=lambda floor: "+".join(PROBE_FLOORS[floor]))
def test_rooms_of_probe_import_from_lower_floors_alone(floor: int) -> None:
    rooms = rooms_of_probe()
    below = {room for lower in PROBE_FLOORS[:floor] for room in lower}
    for room in PROBE_FLOORS[floor]:
        used = {name[1] for file in rooms[room] for name in imported_names(file) if name[0] == "probe"}
        assert used <= below | {room}, room


@pytest.mark.parametrize("file", package_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_short(file: Path) -> None:
    """300 lines for a file, 50 for the body of a function: a longer one has a second thought to split off."""
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 50, node.name


def test_every_folder_says_what_happens_there() -> None:
    for file in package_files():
        if file.name == "__init__.py" and file.parent != ROOT:
            said = ast.get_docstring(ast.parse(file.read_text())) or ""
            assert len(said.split()) >= 10, f"{file.relative_to(ROOT)}: say in two lines what happens in the folder"


def test_the_store_knows_no_torch() -> None:
    for file in (ROOT / "store").rglob("*.py"):
        assert "torch" not in file.read_text(), file


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(["tokenprobe", *file.parent.relative_to(ROOT).parts])
        for file in package_files()
        if file.name == "__init__.py"
    }
    assert set(settings["packages"]) == found
    with_code = {".".join(["tokenprobe", *file.parent.relative_to(ROOT).parts]) for file in package_files()}
    assert with_code == found, "a folder with code lacks its __init__.py"


def test_every_package_file_has_a_test_file() -> None:
    """Tests mirror the tree; files without behaviour of their own are named here."""
    tested_elsewhere = {
        "__main__.py": "tests/test_cli.py",
        "engines/contract.py": "tests/engines/test_inline.py",
        "extract/loaded.py": "tests/extract/test_worker.py",
        "probe/fitting/layer_fit.py": "tests/probe/test_pipeline.py",
        "commands/heads.py": "tests/workflows/test_share_heads.py",
        "commands/lists.py": "tests/test_cli.py",
        "commands/program.py": "tests/test_command_lines.py",
        "commands/stages.py": "tests/test_cli.py",
        "commands/stores.py": "tests/test_cli.py",
        "extract/backbones/contract.py": "tests/extract/backbones/test_from_timm.py",
        "extract/datasets/contract.py": "tests/extract/datasets/test_image_folder.py",
        "probe/fitting/group_fit.py": "tests/probe/fitting/test_train.py",
        "probe/fitting/result_rows.py": "tests/probe/run/test_results.py",
        "probe/logs/contract.py": "tests/probe/logs/test_log.py",
        "probe/planning/make_plan.py": "tests/probe/planning/test_plan.py",
        "probe/report/config.py": "tests/probe/report/test_write.py",
        "probe/run/made_from.py": "tests/probe/run/test_results.py",
        "extract/datasets/published.py": "tests/extract/datasets/test_from_torchvision.py",
        "testing/forks.py": "tests/store/test_faults.py",
        "testing/store_kit.py": "tests/testing/test_stores.py",
        "testing/store_refusing.py": "tests/testing/test_stores.py",
        "testing/store_writing.py": "tests/testing/test_stores.py",
        "workflows/head_card.py": "tests/workflows/test_share_heads.py",
        "workflows/predictions.py": "tests/workflows/test_predict.py",
        **{f"probe/heads/{name}.py": "tests/probe/heads/test_conformance.py" for name in ONLY_A_FORMULA},
    }
    for file in package_files():
        name = str(file.relative_to(ROOT))
        mirror = ROOT / "tests" / file.relative_to(ROOT).with_name(f"test_{file.name}")
        if file.name != "__init__.py":
            assert mirror.exists() or (ROOT / tested_elsewhere.get(name, "none")).exists(), f"no test file for {name}"


@pytest.mark.parametrize("command", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_neither_torch_nor_timm(command: list[str]) -> None:
    code = (
        "import sys\nfrom tokenprobe.cli import main\n"
        f"assert main({command!r}) == 0\n"
        "heavy = {'torch', 'timm', 'torchvision', 'zarr', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "Usage: probe" in shown
    if " COMMAND " not in shown:  # neither the program nor a group
        assert "Examples:" in shown


def test_a_source_tree_that_is_not_installed_extracts(tmp_path: Path) -> None:
    """A checkout on the path, as on a cluster or in a container, has no metadata to ask for its version."""
    site, code = tmp_path / "site", tmp_path / "code"
    site.mkdir()
    code.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "tokenprobe" not in entry.name:
            (site / entry.name).symlink_to(entry)
    (code / "tokenprobe").symlink_to(ROOT)
    script = (
        f"import sys; sys.path[:0] = [{str(code)!r}, {str(site)!r}]\n"
        "from importlib.metadata import distributions\n"
        "assert not [d for d in distributions() if d.name == 'tokenprobe']\n"
        "from tokenprobe.cli import main\n"
        "sys.exit(main(['extract', '-m', 'timm:VisionTransformer', '-d', 'demo', '--no-pretrained', '--limit', '16',\n"
        "    '--model-arg', 'img_size=28,patch_size=14,embed_dim=12,depth=1,num_heads=2', '--workers', '0',\n"
        f"    '-o', {str(tmp_path / 'a.zarr')!r}]))\n"
    )
    subprocess.run([sys.executable, "-S", "-c", script], check=True, cwd=tmp_path)
    versions = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["attributes"]["versions"]
    assert versions["tokenprobe"] == tokenprobe.__version__
