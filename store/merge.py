"""The leader takes over the records of the other writers, whether they live or not.

A record that is lost does no harm: the block is made again, and replaces the file that is there.
"""

from collections.abc import Iterable
from contextlib import suppress

from . import journal
from .contract import StoreFiles
from .durable import remove_durably
from .journal import FileRecord, Journal
from .manifest import Manifest
from .objects import Place
from .temporaries import is_left_over


def merge_journals(folder: Place, leader: Journal) -> list[Place]:
    """Copy the records of all writers into the leader's journal. If two differ, the file itself decides.

    Returns:
        The journals that were read.
    """
    read = journal.writer_journals(folder)
    known, taken = dict(leader.records), []
    for new in journal.records_of(read):
        lacking = list(_lacking(folder, known, new.values()))
        known |= {record.file: record for record in lacking}
        taken += lacking
    leader.take(taken)
    return read


def _lacking(folder: Place, known: dict[str, FileRecord], new: Iterable[FileRecord]) -> Iterable[FileRecord]:
    for record in new:
        if record.file not in known:
            yield record
        elif record != known[record.file] and (folder / record.file).is_file():
            there = journal.file_record(folder, record.file)
            if there != known[record.file]:
                yield there


def remove_journals(folder: Place, paths: Iterable[Place]) -> None:
    """Remove journals whose records the leader has, and their folder once it is empty."""
    remove_durably(paths)
    with suppress(OSError):
        (folder / journal.FOLDER).rmdir()


def take_over(files: StoreFiles, leader: Journal) -> None:
    """Begin to lead a store: merge all journals, and clear away those of dead writers."""
    read = merge_journals(files.folder, leader)
    remove_journals(files.folder, [path for path in read if is_left_over(path, path.stem)])


def clear_away(files: StoreFiles, manifest: Manifest, leader: Journal) -> None:
    """Clear away what all other writers left of a complete store, or of one whose files are about to be removed."""
    remove_journals(files.folder, merge_journals(files.folder, leader))
    files.remove_temporary(manifest, all_writers=True)
