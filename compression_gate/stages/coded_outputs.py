"""Where ``encode`` and ``decode`` write: over nothing that is read or judged, and over nothing else unasked."""

from __future__ import annotations

from pathlib import Path

from compression_gate.errors import ParamsError
from compression_gate.records.artifact import FILE_NAME


def place_of(named: Path | None, default: Path, source: Path) -> Path:
    """Where to write: the place that ``-o`` named, or the default where that is free.

    Raises:
        ParamsError: it is what is read; or nobody named it, and it is there already or belongs to an artifact.
    """
    place = named or default
    if place.exists() and source.exists() and place.samefile(source):
        raise ParamsError(f"{place}: expected another place than what is read: name one with -o")
    if named is None and place.exists():
        raise ParamsError(f"{place}: is there already: name it with -o to have it replaced, or another place")
    if named is None and any((folder / FILE_NAME).exists() for folder in place.absolute().parents):
        raise ParamsError(f"{place}: lies among an artifact's files, which the gate judges: name another place with -o")
    return place
