"""The house rules that a machine can check: who imports whom, what is packaged, what loads when."""

import ast
import json
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import tokenprobe

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "errors": set(),
    "runtime": {"errors"},
    "store": {"runtime", "errors"},
    "extract": {"store", "runtime", "errors", "__version__"},
    "probe": {"store", "runtime", "errors"},
    "workflows": {"extract", "probe", "store", "runtime", "errors"},
    "cli": {"workflows", "extract", "probe", "store", "runtime", "errors", "__version__"},
    "__main__": {"cli"},
    "__init__": set(),
}
COMMANDS = ("extract", "models", "datasets", "fit", "demo", "info", "verify", "export", "predict")
ROOT_FILES = {"__init__.py", "__main__.py", "cli.py", "errors.py"}
ONLY_A_FORMULA = ("aim", "cae", "dinovit", "dolg", "esimpool", "jepa", "siglip", "simpool")
"""Poolings with nothing to test but their formula and what all share."""
NOT_THE_PACKAGE = {"tests", "benchmarks", "examples", "docs", "assets", "build"}


def package_files() -> list[Path]:
    folders = [p for p in ROOT.iterdir() if p.is_dir() and p.name in MAY_IMPORT]
    return sorted([*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def imported_parts(file: Path) -> set[str]:
    """Return the top-level parts of the package that a file imports, at any depth of nesting."""
    package = file.relative_to(ROOT).parent.parts
    parts = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            below = (node.module or "").split(".") if node.module else []
            names = [[*base, *below]] if base or below else [[alias.name] for alias in node.names]
            parts |= {name[0] for name in names if name}
        elif isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("tokenprobe"), f"{file}: absolute import of the package itself"
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("tokenprobe") for alias in node.names), file
    return parts


def test_the_root_holds_no_other_modules() -> None:
    assert {file.name for file in ROOT.glob("*.py")} == ROOT_FILES


@pytest.mark.parametrize("file", package_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    own = file.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT[own] | {own}
    assert imported_parts(file) <= allowed


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
        "extract/config.py": "tests/test_cli.py",
        "extract/backbones/contract.py": "tests/extract/backbones/test_from_timm.py",
        "extract/datasets/contract.py": "tests/extract/datasets/test_image_folder.py",
        "probe/contract.py": "tests/probe/test_solver.py",
        "probe/courses.py": "tests/probe/test_plan.py",
        "probe/rider.py": "tests/probe/test_train.py",
        "probe/rows.py": "tests/probe/test_results.py",
        "probe/solve.py": "tests/probe/test_pipeline.py",
        "probe/work.py": "tests/probe/test_train.py",
        "extract/datasets/published.py": "tests/extract/datasets/test_from_torchvision.py",
        "probe/report/progress.py": "tests/probe/test_pipeline.py",
        "workflows/config.py": "tests/test_cli.py",
        "workflows/predictions.py": "tests/workflows/test_predict.py",
        **{f"probe/heads/{name}.py": "tests/probe/heads/test_formulas.py" for name in ONLY_A_FORMULA},
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
        f"try: main({command!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'torchvision', 'zarr', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "usage: probe" in shown
    if command != ["--help"]:
        assert "example" in shown


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
