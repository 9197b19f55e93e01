"""A worker that came from another process makes the tokens of the leader, and refuses to make others."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.forward import Job
from tokenprobe.extract.listing import list_images
from tokenprobe.extract.loaded import load_configured, open_source
from tokenprobe.extract.plan import make_plan
from tokenprobe.extract.statistics import write_channels
from tokenprobe.extract.units import make_units
from tokenprobe.extract.worker import ExtractWork
from tokenprobe.store import Targets, open_block_writer, open_writer

from .kit import MakeConfig, digests


def planned(config: ExtractConfig, out: Path) -> Job:
    """Plan an extraction, and declare its store."""
    source = open_source(config)
    backbone = load_configured(config, source)
    images = list_images(config, source)
    plan = make_plan(config, backbone, source, images, "float32")
    with open_writer(out, plan.manifest) as writer:
        writer.declare({split: Targets(chosen.rows.labels, chosen.rows.ids) for split, chosen in images.items()})
    import torch

    return Job(config, plan, backbone, source, torch.device("cpu"))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_worker_that_travelled_writes_the_same_store(tiny_config: MakeConfig, tmp_path: Path, dtype: str) -> None:
    config = tiny_config(out=tmp_path / "s.zarr", dtype=dtype)
    job = planned(config, tmp_path / "s.zarr")
    with open_block_writer(tmp_path / "s.zarr", job.plan.manifest) as writer:
        units = make_units(job.plan, writer)
        if dtype == "int8":
            write_channels(
                job, [(unit.split, layer) for unit in units for of in unit.blocks.values() for layer in of], writer
            )
        work = pickle.loads(pickle.dumps(ExtractWork(job, writer)))
    told: list[tuple[int, int]] = []
    with work() as worker:
        worker(iter(units), lambda *amounts: told.append(amounts))
    assert sum(n for n, _ in told) == sum(unit.n_images for unit in units)
    extract(config)  # seals
    extract(replace(config, out=tmp_path / "whole.zarr"))
    assert digests(tmp_path / "s.zarr") == digests(tmp_path / "whole.zarr")


def test_units_are_taken_as_they_are_needed(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(out=tmp_path / "s.zarr", workers=0)
    job = planned(config, tmp_path / "s.zarr")
    taken: list[int] = []
    done: list[int] = []
    with open_block_writer(tmp_path / "s.zarr", job.plan.manifest) as writer:
        units = make_units(job.plan, writer)

        def lazily() -> Iterator[object]:
            for number, unit in enumerate(units):
                taken.append(number)
                yield unit

        with ExtractWork(job, writer)() as worker:
            worker(lazily(), lambda n, _: done.append(len(taken)))
    assert done[1] < len(units), "not all before the first is done"
    assert taken == list(range(len(units)))


def test_other_weights_or_another_precision_are_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    config = tiny_config(out=tmp_path / "s.zarr")
    job = planned(config, tmp_path / "s.zarr")
    with open_block_writer(tmp_path / "s.zarr", job.plan.manifest) as writer:
        for changes, message in (
            ({"seed": 9}, "a worker loaded other weights of 'timm:VisionTransformer' than the leader"),
            ({"amp": "bfloat16"}, "a worker computes in bfloat16 on cpu, but the leader planned float32"),
        ):
            work = ExtractWork(job._replace(config=replace(config, **changes)), writer)
            with pytest.raises(InputError, match=message):
                pickle.loads(pickle.dumps(work))().__enter__()
