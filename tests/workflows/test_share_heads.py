"""Heads of a run as a list, as a folder with a model card, and on the hub: what comes back are the same weights."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from timm.models import VisionTransformer

from tokenprobe.cli import main
from tokenprobe.errors import InputError, MissingError, RunError
from tokenprobe.probe import load_head
from tokenprobe.probe.report.best import best_cell
from tokenprobe.probe.report.compare import judge, own_interval
from tokenprobe.probe.run.predictions import read_images, read_predicted
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import load_saved
from tokenprobe.store import Store
from tokenprobe.workflows.config import ExportHeadConfig, PredictConfig
from tokenprobe.workflows.predict import predict
from tokenprobe.workflows.share_heads import export_head, lines_of, list_heads, push_head

from .. import hub as stand_in
from ..conftest import TINY_VIT
from ..probe.kit import fit_made, write_made

MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def fitted(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    store = write_made(write_store, folder / "a store.zarr")
    return fit_made(store, folder / "a run", heads=["ep:queries=2", "linear", "knn"], lr=[0.3, 3.0]).path


@pytest.fixture
def run(fitted: Path, tmp_path: Path) -> Run:
    return Run(shutil.copytree(fitted, tmp_path / "a run"))


def export(run: Run, **changes: Any) -> Path:
    return export_head(run.path, ExportHeadConfig(**{"out": run.path.parent / "head"} | changes))


def test_the_list_has_every_head_best_first(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with_head = run.results[run.results["head"] != "knn"].set_index("cell")
    found = list_heads(run.path)
    assert {*found["cell"]} == {*with_head.index} and list(found["val"]) == sorted(found["val"], reverse=True)
    for row in found.itertuples():
        of_cell = with_head.loc[row.cell]
        assert (row.layer, row.val, row.test) == (of_cell["layer"], of_cell["val_top1"], of_cell["test_top1"])
        assert row.selected == of_cell["selected"]
    assert list(found["cell"][found["best"]]) == [best_cell(run, {*with_head.index}, "cell")]
    lines = list(lines_of(found))
    assert len(lines) == len(found) + 2 and [line[:2] for line in lines[2:]].count("**") == 1
    assert all(line.endswith(cell) for line, cell in zip(lines[2:], found["cell"], strict=True))
    capsys.readouterr()
    assert main(["heads", "list", str(run.path)]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert main(["heads", "list", str(run.path), "--json"]) == 0
    assert pd.DataFrame(json.loads(capsys.readouterr().out))["cell"].equals(found["cell"])


def test_a_run_without_results_or_heads_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no trained heads in '.*nothing/heads'"):
        list_heads(tmp_path / "nothing")
    (run.path / "results.parquet").unlink()
    with pytest.raises(MissingError, match="has no results yet; wait for its probe fit"):
        list_heads(run.path)


def test_an_exported_head_has_the_same_weights_under_any_name(run: Run) -> None:
    cell = best_cell(run, {*run.results["cell"][run.results["head"] != "knn"]}, "cell")
    out = export(run)
    assert {path.name for path in out.iterdir()} == {"head.safetensors", "README.md"}
    before, after = load_file(run.path / "heads" / f"{cell}.safetensors"), load_file(out / "head.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    tokens = torch.randn(3, 6, 8)
    expected = load_head(run.path, cell)(tokens)
    renamed = (out / "head.safetensors").rename(run.path.parent / "mine.safetensors")
    for place in (renamed, str(renamed)):
        assert torch.equal(load_head(place)(tokens), expected)
    with pytest.raises(
        InputError, match=r"'.*mine.safetensors' is one head, and the cell 'x' was asked for; leave out"
    ):
        load_head(renamed, "x")
    with pytest.raises(InputError, match=r"'.*a run' is a run of 8 heads; name a cell, from the column cell"):
        load_head(run.path)
    of_run = run.path / "heads" / f"{cell}.safetensors"
    assert torch.equal(load_head(of_run)(tokens), expected)
    with pytest.raises(RunError, match="its name, settings or weights are not those that were written"):
        load_head(of_run.rename(of_run.with_name("other.safetensors")))


def test_any_cell_can_be_exported_but_never_over_something(run: Run) -> None:
    cell = list_heads(run.path)["cell"].iloc[-1]
    out = export(run, cell=cell)
    assert load_saved(out)[1] == load_saved(run.path, cell)[1]
    with pytest.raises(InputError, match=r"'.*head' exists already; give --out a new folder"):
        export(run)


def test_the_card_says_what_the_head_is_and_how_good(run: Run, tmp_path: Path) -> None:
    row = run.results.set_index("cell").loc[list_heads(run.path)["cell"].iloc[0]]
    card = (export(run, cell=row.name, license="mit") / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["license"], metadata["library_name"]) == ("mit", "tokenprobe")
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": pytest.approx(row["test_top1"], abs=1e-4)}]
    images = read_images(run.path, row.name.partition("-layer_")[0])
    assert images is not None and images.labels is not None
    predicted = read_predicted(run.path, row.name, images, row["test_top1"])
    assert predicted is not None
    judged = judge(images.ids, images.labels, [predicted])
    assert judged is not None
    interval = own_interval(judged)
    assert "); learning rate, epoch and layer are selected on held-out images" in card
    assert f"top-1 {100 * row['test_top1']:.1f} % on {len(images.ids)} test images (95 % interval " in card
    assert f"interval {100 * interval.low:.1f} to {100 * interval.high:.1f}, by a bootstrap" in card
    for text in (
        "`timm:none`",
        "`" + "0" * 64 + "`",
        "on a grid of 2 × 3",
        "4: `class 0`, `class 1`",
        "**Licence**: `mit`",
    ):
        assert text in card, text
    assert str(tmp_path.parent) not in card, "a card holds no path of this machine"
    lines = [line for line in card.splitlines() if line.startswith("probe ")]
    assert lines[0] == "probe predict hf:ORG/NAME --images new-photos"
    assert lines[1].startswith("probe extract --data made --model timm:none --out 'a store.zarr' --layers 0,1")
    assert lines[2].startswith("probe fit 'a store.zarr' -o 'a run' ")


def test_a_cell_that_is_not_selected_says_so_and_a_lost_file_leaves_no_interval(run: Run) -> None:
    cells = list_heads(run.path)
    shutil.rmtree(run.path / "predictions")
    card = (export(run, cell=cells["cell"][~cells["selected"]].iloc[0]) / "README.md").read_text()
    assert "(no interval is known); this is not the cell that its run selects for this head" in card
    assert "license: unknown" in card
    assert "**Licence**: not given by the author of this head" in card


def test_an_exported_head_predicts_and_holds_no_folder(make_run: MakeRun, image_folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    torch.save(VisionTransformer(**TINY_VIT, num_classes=0).state_dict(), weights)
    run = make_run(["linear"], no_pretrained=False, checkpoint=weights)
    out = export(run)
    assert str(tmp_path).encode() not in (out / "head.safetensors").read_bytes() + (out / "README.md").read_bytes()
    config: dict[str, Any] = {"images": str(image_folder / "test" / "ant"), "workers": 0, "device": "cpu"}
    expected = predict(run.path, PredictConfig(**config))
    assert predict(out, PredictConfig(**config, checkpoint=weights)).equals(expected)
    with pytest.raises(MissingError, match=r"the backbone of '.*head' is .* no checkpoint at 'w.pt'; if it has moved"):
        predict(out, PredictConfig(**config))
    with pytest.raises(InputError, match="is one head, and the cell 'best' was asked for"):
        predict(out, PredictConfig(**config, cell="best"))


def test_only_a_whole_folder_is_uploaded(run: Run) -> None:
    out = export(run)
    content = (out / "head.safetensors").read_bytes()
    (out / "head.safetensors").write_bytes(content[:-1])
    with pytest.raises(RunError, match="is damaged"):
        push_head(out, "org/name")
    (out / "README.md").unlink()
    with pytest.raises(MissingError, match=r"no README.md in '.*head'; make the folder with probe heads export"):
        push_head(out, "org/name")


def test_a_head_goes_to_the_hub_and_comes_back_by_its_name(run: Run, tmp_path: Path) -> None:
    """In a process of its own, which reads where the hub is as a user gives it."""
    out = export(run)
    code = (
        "from tokenprobe.cli import main; from tokenprobe.probe import load_head\n"
        "from safetensors.torch import save_file\n"
        f"assert main(['heads', 'push', {str(out)!r}, 'org/name']) == 0\n"
        f"head = load_head('hf:org/name'); save_file(head.state_dict(), {str(tmp_path / 'back.safetensors')!r})"
    )
    with stand_in.serve() as hub:
        variables = os.environ | stand_in.environment(hub, str(tmp_path / "cache"))
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, f"{hub.address}/org/name\n"), done.stderr
        assert {*hub.repos["org/name"]["main"]} == {"head.safetensors", "README.md"}
        card, _ = hub.repos["org/name"]["main"]["README.md"]
    assert b"probe predict hf:org/name --images" in card and b"ORG/NAME" not in card
    expected, found = load_file(out / "head.safetensors"), load_file(tmp_path / "back.safetensors")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name][0], expected[name]) for name in expected)
