"""The commands on a store at an address, with servers of S3, Google's API and Azure; no file or message has secrets."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tokenprobe.cli import main
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store.objects import Bucket
from tokenprobe.store.remote import RemoteFiles

from ..store.conftest import bucket, proxy, service, services  # noqa: F401
from ..store.proxy import Proxy
from ..store.servers import SECRET, Service, on_every_service
from ..store.test_remote import tree_at, tree_of

pytestmark = pytest.mark.slow


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command; return its exit status and everything it printed."""
    status = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return status, out + err


@on_every_service
def test_a_store_at_an_address_is_made_checked_and_mended(
    tiny_config: Callable[..., ExtractConfig],
    service: Service,  # noqa: F811
    bucket: str,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, said = f"{bucket}/tiny.zarr", []
    assert extract(tiny_config(out=address, layers="0,2")) == address
    local = tmp_path / "local.zarr"
    extract(tiny_config(out=local, layers="0,2"))
    assert tree_at(address) == tree_of(local)
    for command in (["info", address], ["verify", address], ["info", address, "--json"]):
        status, text = run(capfd, *command)
        said.append(text)
        assert status == 0, text
    folder = RemoteFiles(address).folder
    (folder / "train/layer_02/patch/c.0.1.0.0").unlink()
    damaged = folder / "train/layer_00/mean/c.0.0.0"
    damaged.write(b"x" * len(damaged.read_bytes()))
    (folder / "zarr.json").write(b"{}")
    status, text = run(capfd, "verify", address)
    assert status == 2 and "3 files have problems" in text
    status, text = run(capfd, "verify", address, "--repair")
    said.append(text)
    assert status == 0, text
    assert tree_at(address) == tree_of(local)
    status, text = run(capfd, "export", address, "-o", str(tmp_path / "e.zarr"), "--layers", "2")
    said.append(text)
    assert status == 0, text
    assert service.secret not in "".join(said)
    assert_no_secret(tmp_path, Bucket(address), service.secret)


@pytest.mark.parametrize("service", ["s3", "az"], indirect=True)
def test_a_run_from_an_address_is_the_run_from_a_local_store(
    tiny_config: Callable[..., ExtractConfig],
    service: Service,  # noqa: F811
    bucket: str,  # noqa: F811
    proxy: Proxy,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, local = f"{bucket}/tiny.zarr", tmp_path / "local.zarr"
    for out in (address, local):
        extract(tiny_config(out=out, layers="2"))
    options = ["--head", "ep:queries=2", "--epochs", "2", "--lr", "0.1", "--batch-size", "8", "--warmup-epochs", "1"]
    cache = ["--local-cache", str(tmp_path / "cache"), "--cache", "disk"]
    tables, said = [], []
    for out, store, more in (("a", str(local), []), ("b", address, []), ("c", address, cache), ("d", address, cache)):
        proxy.asked.clear()
        status, text = run(capfd, "fit", store, *options, "-o", str(tmp_path / out), *more)
        said.append(text)
        assert status == 0, text
        table = pd.read_csv(tmp_path / out / "results.csv")
        tables.append(table[[name for name in table if name != "store" and not name.startswith("train_")]])
    assert not any("patch/c." in path for _, path in proxy.asked)  # the last run finds all blocks in the folder
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    assert service.secret not in "".join(said)
    assert_no_secret(tmp_path, Bucket(address), service.secret)


@on_every_service
def test_shards_at_an_address_are_merged_to_the_store_of_one_command(
    tiny_config: Callable[..., ExtractConfig],
    bucket: str,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address, local = f"{bucket}/shards.zarr", tmp_path / "local.zarr"
    extract(tiny_config(out=local, layers="0,2"))
    for shard, status, said in (
        ("1/3", 2, "is not complete: "),
        ("0/3", 2, "run the shards that are missing again"),
        ("0/3", 2, "is not complete: "),  # the same shard twice
        ("2/3", 0, f"{address}: complete"),
        ("2/3", 0, f"{address}: complete"),
    ):
        extract(tiny_config(out=address, layers="0,2", shard=shard))
        found, text = run(capfd, "merge", address)
        assert (found, said in text) == (status, True), text
    assert tree_at(address) == tree_of(local)
    assert not list((RemoteFiles(address).folder / "journal.d").iterdir())


def assert_no_secret(folder: Path, bucket: Bucket, secret: str) -> None:  # noqa: F811
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files and not [file for file in files if secret.encode() in file.read_bytes()]
    assert not [name for name, data in tree_at(bucket.address).items() if secret.encode() in data]
    journal = (RemoteFiles(bucket.address).folder / "journal.jsonl").read_bytes()
    assert secret.encode() not in journal and bucket.address.encode() in journal


@pytest.mark.parametrize("address", ["https://me:hunter2@127.0.0.1:1/a.zarr", "s3://bucket/a.zarr?sig=hunter2"])
@pytest.mark.parametrize("command", ["info", "verify", "repair", "extract", "fit", "test", "export", "out"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(
    tmp_path: Path, address: str, command: str, capfd: pytest.CaptureFixture[str], image_folder: Path
) -> None:
    images = ["-d", f"folder:{image_folder}", "--no-pretrained", "-m", "timm:vit_tiny_patch16_224"]
    lines = {
        "info": ["info", address],
        "verify": ["verify", address],
        "repair": ["verify", address, "--repair"],
        "extract": ["extract", *images, "-o", address],
        "fit": ["fit", address, "-o", str(tmp_path / "run")],
        "test": ["fit", str(tmp_path), "-o", str(tmp_path / "run"), "--test-store", address],
        "export": ["export", address, "-o", str(tmp_path / "e.zarr")],
        "out": ["export", str(tmp_path), "-o", address],
    }
    status, text = run(capfd, *lines[command])
    assert status == 2 and "hunter2" not in text
    if command != "test":
        assert "holds a password, a query" in text
    assert not list(tmp_path.iterdir())


def test_an_unreachable_server_is_one_line_without_secrets() -> None:
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_REGION": "us-east-1",
    }
    code = (
        "from tokenprobe.store import object_requests as requests\nfrom tokenprobe.cli import main\n"
        "requests.N_RETRIES, requests.PAUSE_SECONDS = 0, 0\nraise SystemExit(main(['info', 's3://bucket/a.zarr']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("probe info: cannot use 's3://bucket/a.zarr/zarr.json': ")
    assert SECRET not in ended.stderr and "Traceback" not in ended.stderr
