"""The extractions that a journal records, with their settings. A journal is not trusted: other entries are skipped."""

from typing import Any, NamedTuple

from .journal import read_entries
from .objects import Place


class Extraction(NamedTuple):
    """A recorded extraction.

    Attributes:
        config: all its settings.
        given: names of those that differ from their default; None in older journals.
    """

    config: dict[str, Any]
    given: list[str] | None


def read_extractions(folder: Place) -> list[Extraction]:
    """Return the extractions into a store in the order they ran, or of an archive the last one into its original."""
    found = []
    for entry in read_entries(folder):
        config, given = entry.get("config", entry.get("exported_config")), entry.get("given")
        if isinstance(config, dict):
            is_list = isinstance(given, list) and all(isinstance(name, str) for name in given)
            found.append(Extraction(config, given if is_list else None))
    return found


def can_repair(folder: Place) -> bool:
    """Whether a journal holds the settings of an extraction, which can make the files again."""
    return any(isinstance(entry.get("config"), dict) for entry in read_entries(folder))
