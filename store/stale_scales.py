"""Scales of int8 tokens that belong to channel statistics which the store no longer has.

Version 0.3.0 left such scales behind if one of the first 1,024 rows of a store moved or was added: the tokens and their
channel statistics were made again, and the old scales stayed. Their bytes are those that were written, so only the
order of the journal's lines tells: a scale was recorded before the statistics that its tokens now have.
"""

from collections.abc import Iterator

from .array_spec import array_specs
from .contract import StoreFiles
from .journal import leader_records
from .layout import CHANNELS
from .manifest import Manifest


def stale_scales(files: StoreFiles, manifest: Manifest) -> Iterator[str]:
    """Yield the relative path of each file of scales that belongs to earlier channel statistics."""
    if manifest.recipe.dtype != "int8":
        return
    records = leader_records(files.folder)
    first, last = ({record.file: record for record in order} for order in (reversed(records), records))
    place = {record: place for place, record in reversed(list(enumerate(records)))}
    for spec in array_specs(manifest):
        if spec.type.name == "int8":
            statistics = files.whole_names(spec.name + CHANNELS)
            changed = [place[last[name]] for name in statistics if name in last and first[name] != last[name]]
            scales = [name for name in files.block_names(spec.scale()) if name in last]
            yield from (name for name in scales if place[last[name]] < max(changed, default=-1))
