"""Heads on the hub: what is uploaded comes back, from a real server on this machine, and failures are explained."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tokenprobe.errors import HubError, InputError, MissingError
from tokenprobe.probe import load_head
from tokenprobe.probe.run.hub import download_head, upload_head

from ... import hub as stand_in

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's HTTP client
FILES = ["head.safetensors", "README.md"]
CARD = b"---\nlicense: mit\n---\n# A head\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.Hub]:
    with stand_in.serve() as served:
        stand_in.use(served, str(tmp_path / "cache"), monkeypatch)
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    (made / "head.safetensors").write_bytes(bytes(range(256)) * 5)
    (made / "README.md").write_bytes(CARD)
    (made / "notes.txt").write_text("not for others")
    return made


def test_the_files_are_uploaded_through_lfs_and_come_back(hub: stand_in.Hub, folder: Path) -> None:
    assert upload_head(folder, "org/name", FILES, private=True) == f"{hub.address}/org/name"
    assert hub.repos["org/name"]["main"] == {
        "head.safetensors": ((folder / "head.safetensors").read_bytes(), True),
        "README.md": (CARD, False),
    }
    assert hub.private["org/name"] and hub.verified == {*hub.objects}
    assert download_head("org/name", FILES[0]).read_bytes() == (folder / "head.safetensors").read_bytes()


def test_a_revision_is_an_older_upload(hub: stand_in.Hub, folder: Path) -> None:
    upload_head(folder, "org/name", FILES, private=False)
    older = hub.revision_of("org/name")
    (folder / "head.safetensors").write_bytes(b"newer")
    upload_head(folder, "org/name", FILES, private=True)
    assert not hub.private["org/name"], "an upload does not change who sees a repository"
    assert download_head("org/name", FILES[0]).read_bytes() == b"newer"
    assert download_head(f"org/name@{older}", FILES[0]).read_bytes() == bytes(range(256)) * 5


def test_a_second_download_takes_the_copy_in_the_cache(hub: stand_in.Hub, folder: Path) -> None:
    upload_head(folder, "org/name", FILES, private=False)
    first = download_head("org/name", FILES[0])
    n_calls = len([call for call in hub.calls if call.startswith("GET")])
    assert download_head("org/name", FILES[0]) == first
    assert len([call for call in hub.calls if call.startswith("GET")]) == n_calls
    hub.fails = 503
    assert download_head("org/name", FILES[0]) == first, "the copy serves while the hub is out of order"


@pytest.mark.parametrize("name", ["name", "a/b/c", "/b", "a/", "a/b@", ""])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"'.*' is no name on the hub; expected hf:ORG/NAME, or hf:ORG/NAME@REVISION"):
        download_head(name, FILES[0])


def test_names_that_the_hub_does_not_allow_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'a b/c' is no name on the hub"):
        download_head("a b/c", FILES[0])
    with pytest.raises(InputError, match=r"'name' is no name on the hub; expected ORG/NAME"):
        upload_head(folder, "name", FILES, private=False)


def test_what_is_not_on_the_hub_is_said(hub: stand_in.Hub) -> None:
    with pytest.raises(MissingError, match=r"'org/none' is not on the hub; check its name; if it is private or gated"):
        load_head("hf:org/none")
    hub.put("org/other", {"model.safetensors": b"x"})
    with pytest.raises(
        MissingError, match=r"'org/other' is on the hub, but no head of tokenprobe: it has no file 'head.safetensors'"
    ):
        load_head("hf:org/other")
    with pytest.raises(MissingError, match=r"'org/other@v2' is not on the hub in this revision; give another branch"):
        load_head("hf:org/other@v2")


def test_a_hub_that_refuses_is_quoted(hub: stand_in.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=rf"the hub at {hub.address} failed for 'org/name': .*401"):
        upload_head(folder, "org/name", FILES, private=False)


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # it tries five times
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        nobody = stand_in.Hub(address=f"http://127.0.0.1:{taken.getsockname()[1]}")
        stand_in.use(nobody, str(tmp_path / "cache"), monkeypatch)
        with pytest.raises(HubError, match=r"'org/name' is not in the cache, and cannot .*refused; check the network"):
            download_head("org/name", FILES[0])


def test_offline_nothing_is_asked(hub: stand_in.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"'org/name' is not in the cache, .*offline mode"):
        download_head("org/name", FILES[0])
    with pytest.raises(HubError, match=r"'org/name' cannot be uploaded while HF_HUB_OFFLINE is set"):
        upload_head(folder, "org/name", FILES, private=False)
    assert not hub.calls
