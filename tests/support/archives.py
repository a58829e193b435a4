"""What lies in an archive of a release."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpacked(path: Path) -> dict[str, bytes]:
    """Every file of an archive by its path below the folder."""
    with tarfile.open(path) as archive:
        return {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive}
