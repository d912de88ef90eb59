"""What upkeep keeps of a table, as rows of the settings' table (lakehouse.conf); docs/upkeep.md says what they do."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse import rewrite_choice
from lakehouse.setting import at_least, between, setting

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class UpkeepConfig:
    snapshot_hours: int = setting(
        120,
        unit="hours",
        why="Older snapshots are forgotten; a table's history.expire.max-snapshot-age-ms counts instead.",
        **at_least(0),
    )
    snapshots_newest: int = setting(
        20,
        unit="snapshots",
        why="The newest of a table stay, however old; a table's history.expire.min-snapshots-to-keep counts instead.",
        **at_least(1),
    )
    snapshots_max: int = setting(
        60,
        unit="snapshots",
        why="More are thinned, evenly over snapshot_hours, for each makes a commit longer; a table's "
        "evodb.history.max-snapshots counts instead.",
        **at_least(1),
    )
    forgotten_hours: int = setting(
        1,
        unit="hours",
        why="Files of forgotten snapshots are deleted so much later; a reader may hold an older metadata file.",
        **at_least(0),
    )
    target_file_bytes: int = setting(
        128 * MIB,
        unit="bytes",
        why="Small files are merged into files of this size; a table's write.target-file-size-bytes counts instead.",
        **at_least(1 * MIB),
    )
    compact_files_min: int = setting(
        8,
        unit="files",
        why="So many files of about one size in a partition are merged into one. 0: the beat merges none.",
        **at_least(0),
    )
    rewrite_engine: str = setting(
        rewrite_choice.LOCAL,
        unit="name",
        why="Who merges files: this process, or Daft on the Ray cluster of RAY_ADDRESS (needs `evodb[ray]`).",
        **rewrite_choice.engines(),
    )
    orphan_hours: int = setting(
        72,
        unit="hours",
        why="Files that no snapshot names are orphans when they are so old; longer than any writer takes to commit.",
        **at_least(1),
    )
    orphan_delete: bool = setting(
        False, unit="yes/no", why="Let the beat delete orphans; else it counts them, and a command deletes."
    )
    current_buckets: int = setting(
        16,
        unit="buckets",
        why="Of a new table of now; a refresh writes those anew in which something changed (docs/current-state.md).",
        **between(1, 1024),
    )
