"""Properties of a table that anybody wrote stop no flush, and run no code here.

What a property says and cannot be meant does not count: pyiceberg 0.12 raises where it writes, so a word that another
engine may take (`orc`) would keep every row of a parent out of the lake. And it imports and calls whatever
`write.py-location-provider.impl` names, which would be code of who may write properties, with our keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pyiceberg import catalog, table
from pyiceberg.io import pyarrow
from pyiceberg.table import locations, update
from pyiceberg.table.name_mapping import parse_mapping_from_json
from pyiceberg.table.update import snapshot

CODEC, LEVEL = "write.parquet.compression-codec", "write.parquet.compression-level"
LEVELS_MAX = {"zstd": 22, "gzip": 9, "brotli": 11}
WORDS = {
    CODEC: {*LEVELS_MAX, "snappy", "lz4", "uncompressed"},
    "write.avro.compression-codec": {"gzip", "zstd", "snappy", "bzip2", "deflate", "zstandard", "null"},
    "write.format.default": {"parquet"},
}
METRICS = ("write.metadata.metrics.default", "write.metadata.metrics.column.")
METRICS_MODE = re.compile(r"none|counts|full|truncate\([1-9][0-9]{0,8}\)")
MAPPING = "schema.name-mapping.default"
PROVIDER = "write.py-location-provider.impl"
DIGITS_MAX = 18

READERS: dict[str, tuple[Any, ...]] = {
    "property_as_int": (pyarrow, table, update, snapshot),
    "property_as_bool": (catalog, pyarrow, table, snapshot, locations),
}


def mend() -> None:
    """For this process, once."""
    for name, modules in READERS.items():
        for module in modules:
            setattr(module, name, _forgiving(getattr(module, name)))
    locations._import_location_provider = _usual_provider  # type: ignore[assignment]


def meant(properties: Mapping[str, str]) -> dict[str, str]:
    """Those of a table that we can write by."""
    found = {name: value.lower() if name in WORDS else value for name, value in properties.items()}
    found = {name: value for name, value in found.items() if _can_be_meant(name, value)}
    level, most = found.get(LEVEL, "1"), LEVELS_MAX.get(found.get(CODEC, "zstd"), 0)
    if len(level) > 2 or not level.isascii() or not level.isdigit() or not 1 <= int(level) <= most:
        found.pop(LEVEL, None)
    return found


def _can_be_meant(name: str, value: str) -> bool:
    if name in WORDS:
        return value in WORDS[name]
    if name.startswith(METRICS):
        return METRICS_MODE.fullmatch(value.strip().lower()) is not None
    return name != MAPPING or _is_mapping(value)


def _is_mapping(value: str) -> bool:
    try:
        parse_mapping_from_json(value)
    except (ValueError, RecursionError):
        return False
    return True


def _forgiving(original: Callable[..., Any]) -> Callable[..., Any]:
    if getattr(original, "is_forgiving", False):
        return original

    def read(properties: Mapping[str, str], property_name: str, default: Any = None) -> Any:
        try:
            found = original(properties, property_name, default)
        except ValueError:
            return default
        return default if type(found) is int and len(str(properties.get(property_name))) > DIGITS_MAX else found

    read.is_forgiving = True  # type: ignore[attr-defined]
    return read


def _usual_provider(_: str, location: str, properties: Mapping[str, str]) -> locations.LocationProvider:
    others = {name: value for name, value in properties.items() if name != PROVIDER}
    return locations.load_location_provider(location, others)
