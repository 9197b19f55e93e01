"""Heads on the Hugging Face hub: downloaded into its cache, and uploaded. `HF_ENDPOINT` names another hub."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.utils
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...errors import HubError, InputError, MissingError, TokenprobeError
from ...runtime.console import bars_of

FORM = "hf:ORG/NAME, or hf:ORG/NAME@REVISION"
LOG_IN = "check its name; if it is private or gated, log in with `hf auth login` or set HF_TOKEN"

REASONS: Sequence[tuple[type[Exception], type[TokenprobeError], str]] = (
    (HFValidationError, InputError, f"is no name on the hub; expected {FORM}"),
    (GatedRepoError, HubError, f"is gated on the hub; {LOG_IN}"),
    (RepositoryNotFoundError, MissingError, f"is not on the hub; {LOG_IN}"),
    (RevisionNotFoundError, MissingError, "is not on the hub in this revision; give another branch, tag or commit"),
    (LocalEntryNotFoundError, HubError, "is not in the cache, and cannot be downloaded: {why}; check the network"),
    (OfflineModeIsEnabled, HubError, "cannot be uploaded while HF_HUB_OFFLINE is set; unset it"),
    (EntryNotFoundError, MissingError, "is on the hub, but no head of tokenprobe: it has no file {file}"),
)
"""What an error of huggingface_hub means; the first that fits counts."""


def download_head(name: str, file: str) -> Path:
    """Return the path of a file of a repository on the hub, in the cache of huggingface_hub.

    Args:
        name: "ORG/NAME" or "ORG/NAME@REVISION".
        file: its name.

    Raises:
        InputError: the name has another form.
        MissingError: no such repository, revision or file.
        HubError: the hub cannot be reached, or refuses.
    """
    repo, at, revision = name.partition("@")
    if not _is_repo(repo) or (at and not revision):
        raise InputError(f"{name!r} {REASONS[0][2]}")
    with _explained(name, file):
        return Path(hf_hub_download(repo, file, revision=revision or None))


def upload_head(folder: Path, repo: str, files: Sequence[str], *, private: bool) -> str:
    """Upload files of a folder to a repository on the hub, and return its address. It is made if there is none.

    Args:
        folder: the folder.
        repo: "ORG/NAME".
        files: names of the files.
        private: whether a new repository is private.

    Raises:
        InputError: the name has another form.
        HubError: the hub cannot be reached, or refuses.
    """
    if not _is_repo(repo):
        raise InputError(f"{repo!r} is no name on the hub; expected ORG/NAME")
    api = HfApi()
    with _explained(repo, ""):
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=[*files], commit_message="Upload a head of tokenprobe"
        )
    return str(made)


def _is_repo(name: str) -> bool:
    return name.count("/") == 1 and all(name.split("/"))


@contextmanager
def _explained(name: str, file: str) -> Iterator[None]:
    try:
        with bars_of(huggingface_hub.utils):
            yield
    except Exception as error:  # its HTTP client, which changes with its version, has errors of its own
        said = [_first_line(each) for each in _chain(error)]
        for kind, ours, text in REASONS:
            if isinstance(error, kind):
                raise ours(f"{name!r} {text.format(file=repr(file), why=said[-1])}") from error
        raise HubError(f"the hub at {constants.ENDPOINT} failed for {name!r}: {'; '.join(said)}") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).removesuffix(".")
