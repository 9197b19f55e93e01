"""`probe verify`, and its `--repair`, which extracts damaged and unfinished files again and touches no other file.

The journal holds the settings of every extraction into the store. Running them again makes only the missing files.
Identical inputs give identical bytes, so the store is restored exactly. Somebody else may have written the journal, so
a repair reads data that are on this machine and downloads none.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError, MissingError, StoreError
from ..extract import ExtractConfig, extract
from ..extract.backbones import split_source
from ..extract.datasets import open_dataset, without_download
from ..runtime.text import plural
from ..store import journal
from ..store.contract import StoreFiles
from ..store.extractions import can_repair
from ..store.formats import store_files
from ..store.manifest import Manifest
from ..store.merge import take_over
from ..store.object_journal import open_journal
from ..store.object_lock import lock_of
from ..store.verify import Problem, read_root, verify
from ..store.writer import write_root
from .progress import ByteProgress
from .trust import check_code

logger = logging.getLogger(__name__)

N_SHOWN = 20


def check(path: str | Path) -> list[Problem]:
    """Verify a store with `tokenprobe.store.verify.verify`, and show progress."""
    recorded = journal.finished_files(store_files(path).folder)
    with ByteProgress("verify", sum(record.size for record in recorded.values())) as progress:
        return verify(path, progress.advance)


def repair(path: str | Path, *, trust_code: bool = False) -> list[Problem]:
    """Verify a store, make damaged, missing and unfinished files again, and verify it once more.

    Intact files keep their bytes, inodes and times. Only the root is rewritten: while files are missing, it says that
    the store is not complete. If only the root is wrong, it is restored from the journal, without an extraction.
    Foreign files stay, except temporary files of the store that a killed writer left. After a kill at any point, the
    same call goes on.

    Args:
        path: of the store. The store may have been moved since it was made; its data and weights may not.
        trust_code: whether to run code that the journal names, from a torch.hub repository.

    Returns:
        The problems that remain.

    Raises:
        InputError: an address that is refused, or the journal names code that is not trusted, or data that would be
            downloaded.
        LockedError: another process is writing to the store.
        MissingError: there is no journal, or the data or weights have moved; the message names the path.
        StoreError: the journal records no extraction, or its extractions would not give this store.
    """
    files = store_files(path)
    if not (files.folder / journal.NAME).is_file():
        raise MissingError(
            f"no journal at {str(files.folder / journal.NAME)!r}, so it is unknown how the store was made; make it "
            "again with probe extract"
        )
    with lock_of(files.folder):
        _warn_early(files, trust_code)
        problems = check(path)
        if not problems:
            return []
        _say_problems(problems)
        manifest, _ = read_root(files)
        to_make = {problem.file for problem in problems if problem.kind != "foreign"} - {files.root.name}
        configs = _recorded_configs(files, manifest) if to_make else []
        _check_inputs(files, configs, trust_code)
        if any(problem.kind != "foreign" for problem in problems):
            _begin(files, replace(manifest, complete=not to_make), problems)
        files.remove_temporary(manifest)
    for config in configs:
        if not files.read_manifest().complete:
            extract(config)
    return check(path)


def _warn_early(files: StoreFiles, trust_code: bool) -> None:
    """Warn, before the store is read, if no file could be made again. It does not matter if no file is damaged."""
    try:
        _check_inputs(files, _recorded_configs(files, read_root(files)[0]), trust_code)
    except (InputError, MissingError, StoreError) as error:
        logger.warning(f"{error}. The store is checked all the same: it may be intact")


def summary(path: str | Path, problems: Sequence[Problem]) -> str:
    """Return one line with the number of files that have a problem, and advice."""
    n_files, files = len(problems), store_files(path)
    if all(problem.kind == "foreign" for problem in problems):
        advice = "remove foreign files by hand: --repair removes only the temporary files of a killed writer"
    elif can_repair(files.folder) or all(problem.file == files.root.name for problem in problems):
        advice = f"mend it with probe verify --repair {path}"
    else:
        advice = "--repair cannot mend it, since no journal records how it was made: make or copy the store again"
    are = plural(n_files, "file has a problem", "files have problems")
    return f"{str(path)!r}: {n_files} {are}; {advice}"


def _recorded_configs(files: StoreFiles, manifest: Manifest) -> list[ExtractConfig]:
    """Return the settings of the extractions that made the store, in the order they ran, without repeats.

    If one of them left out unreadable images, earlier ones may have stopped at those images. So all leave them out.
    """
    left_out = any(info.skipped for info in manifest.splits.values())
    configs: list[ExtractConfig] = []
    for entry in journal.read_entries(files.folder):
        try:
            recorded = ExtractConfig(**entry["config"])
        except (KeyError, TypeError, InputError):  # not the start of an extraction, or a damaged one
            continue
        skip = recorded.skip_bad_images or left_out
        config = replace(recorded, out=files.path, overwrite=False, dry_run=False, skip_bad_images=skip)
        config = replace(config, engine="inline", shard=None, address=None, num_gpus=None)
        config = replace(config, data=_on_this_machine(config.data))
        if config not in configs:
            configs.append(config)
    if not configs:
        raise StoreError(
            f"the journal of {str(files.path)!r} records no extraction to run again; run the probe extract that made it"
        )
    return configs


def _on_this_machine(data: str) -> str:
    try:
        return without_download(data)
    except InputError as error:
        raise InputError(f"cannot repair: the data were {data!r}, and a repair downloads none: {error}") from error


def _check_inputs(files: StoreFiles, configs: Sequence[ExtractConfig], trust_code: bool) -> None:
    """Raise, before any file is removed, MissingError if data or weights are gone, or InputError for untrusted code."""
    for config in configs:
        if split_source(config.model)[0] == "module":
            raise InputError(
                f"cannot repair: the backbone was {config.model!r}, a module given in Python; make the store again "
                "with extract(ExtractConfig(model=…, overwrite=True))"
            )
        check_code(config.model, config.model_arg, f"the journal of {str(files.path)!r}", trust_code)
        try:
            open_dataset(config.data)
        except MissingError as error:
            raise MissingError(f"cannot repair: the data were {config.data!r}: {error}; put them back") from error
        if config.checkpoint is not None and not Path(config.checkpoint).exists():
            raise MissingError(f"cannot repair: the weights were {str(config.checkpoint)!r}; put them back")


def _begin(files: StoreFiles, manifest: Manifest, problems: Sequence[Problem]) -> None:
    """Write the root, and remove damaged files and their records."""
    damaged = {problem.file for problem in problems if problem.kind == "damaged"} - {files.root.name}
    records = open_journal(files.folder)
    try:
        take_over(files, records)
        write_root(files, manifest, records)
        files.remove(damaged)
        records.cancel(damaged)
    finally:
        records.close()


def _say_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:N_SHOWN]:
        logger.warning(problem.line)
    if len(problems) > N_SHOWN:
        logger.warning(f"… and {len(problems) - N_SHOWN:,} more")
