"""A model on disk: which files, which of them ship, how many bytes, from which recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from compression_gate.errors import MetricsError, StaleError
from compression_gate.records.base import Record, digest_of, digest_of_file

FILE_NAME = "artifact.json"
MODELS = ("models/reference", "models/candidate")  # where a suite's own lie
RUN_FILE_NAME = "run.json"  # beside a baseline or a release: the record of the run that made it
Role = Literal["reference", "candidate", "baseline", "release"]


class FileEntry(Record):
    """One file of an artifact: its size [bytes] and its SHA-256."""

    bytes: int
    sha256: str


class Artifact(Record):
    """A model's files. ``digest`` covers the names and contents of all of them, which of them ship, and the counts.

    That of schema 1 covers the files alone; it is read still, since a baseline or a release may be of an older version.

    Args:
        shipped: the names of the files that ship; accuracy, bytes and latency are of these.
        parameters, nonzeros: numbers of weights held, and of those that are not zero.
        macs: multiply-accumulates per example.
        recipe_digest, parent_digest: what made it, and out of which artifact; None for a reference.
        params_digests: of what the stage that made it reads of the params; empty in records of older versions.
    """

    schema_number: Literal[1, 2] = Field(2, alias="schema")
    role: Role
    format: str
    runtime: str
    files: dict[str, FileEntry]
    shipped: tuple[str, ...]
    digest: str
    parameters: int
    nonzeros: int
    macs: int
    normalize: bool = False
    recipe_digest: str | None = None
    parent_digest: str | None = None
    params_digests: dict[str, str] = {}
    commit: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of every file that ships."""
        return sum(self.files[name].bytes for name in self.shipped)

    @property
    def state_bytes(self) -> int:
        """Bytes of the plain state dict."""
        return self.files["model.safetensors"].bytes

    def sealed(self) -> Self:
        """The record with the digest of what it says."""
        digest = digest_of_files(self.files)
        if self.schema_number > 1:
            digest = digest_of([digest, self.shipped, self.parameters, self.nonzeros, self.macs])
        return self.model_copy(update={"digest": digest})

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a folder's record and make sure that it speaks of the files that lie there.

        Raises:
            MetricsError: no record, a damaged one, or one that ships what it does not list.
            StaleError: a file was changed, removed or added since the record was written, or the digest is of others,
                or of other counts.
        """
        artifact = cls.read(folder / FILE_NAME)
        if (found := entries(folder)) != artifact.files:
            changed = sorted(
                name for name in found.keys() | artifact.files.keys() if found.get(name) != artifact.files.get(name)
            )
            raise StaleError(
                f"{folder}: {', '.join(changed)}: expected the files that {FILE_NAME} lists, got others: run again"
            )
        if not artifact.shipped or not set(artifact.shipped) <= artifact.files.keys():
            raise MetricsError(
                f"{folder / FILE_NAME}: shipped: expected some of {', '.join(artifact.files)}, "
                f"got {', '.join(artifact.shipped) or 'none'}: the record is damaged; run again"
            )
        if artifact.digest != (digest := artifact.sealed().digest):
            raise StaleError(f"{folder / FILE_NAME}: digest: expected {digest!r}, got {artifact.digest!r}: run again")
        return artifact


def entries(folder: Path) -> dict[str, FileEntry]:
    """List every file of an artifact's folder but its records."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=digest_of_file(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (FILE_NAME, RUN_FILE_NAME)
    }


def digest_of_files(files: dict[str, FileEntry]) -> str:
    """One digest over the names and contents of all files."""
    return digest_of({name: entry.sha256 for name, entry in files.items()})
