"""An archive whose bytes follow from its files alone: no times, no owners, no order but the alphabet's.

It is not compressed: models hardly shrink, and what a compressor makes of the same bytes differs between versions.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from compression_gate.errors import ReleaseError
from compression_gate.records.base import replacing
from compression_gate.release.manifest import check_sums

MODE = 0o644


def archived(contents: Mapping[str, bytes], folder: str) -> bytes:
    """The archive: every file below ``folder``, in the order of their names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, content in sorted(contents.items()):
            entry = tarfile.TarInfo(f"{folder}/{path}")
            entry.size, entry.mode, entry.mtime = len(content), MODE, 0
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def write(path: Path, contents: Mapping[str, bytes], folder: str) -> None:
    """Write the archive and read it back; one that is there already must be the same.

    Raises:
        ReleaseError: another archive lies there, or what was written does not read back.
    """
    data = archived(contents, folder)
    if path.exists():
        if path.read_bytes() != data:
            raise ReleaseError(
                f"{path}: expected no archive of this name, got another one: a release is not overwritten; choose a "
                "new name, or delete it"
            )
    else:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    if read(path) != dict(contents):
        raise ReleaseError(f"{path}: expected what was written, got something else: look at the disk")


def read(path: Path) -> dict[str, bytes]:
    """Every file of an archive by its path below the folder; nothing is unpacked.

    Raises:
        ReleaseError: it is no such archive, or a file is not the one that its sums are of.
    """
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, mode="r:") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isreg() else None
                if file is None:
                    raise ReleaseError(f"{path}: {entry.name}: expected plain files, got something else: make it again")
                contents[entry.name.partition("/")[2]] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ReleaseError(f"{path}: cannot be read as an archive: {error}: make it again") from error
    check_sums(contents, str(path))
    return contents
