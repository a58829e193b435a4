"""What is known of each attempt at a timing, in `.compression_gate/evidence/<key>/<number>.json`.

The samples lie beside it in ``<number>.npz``. Nothing here reads those: `measurers.evidence` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record, digest_of

EVIDENCE = Path(".compression_gate/evidence")


class Timed(Record):
    """What is timed, and how; attempts that agree in all of it are evidence of one and the same ratio.

    Args:
        candidate, other: digests of the two models; role: which one the other is, a question of its own.
        inputs: digest of the inputs' names, shapes and types.
        machine: digest of the machine, of versions and of threads; package: this package's version.
        procedure: how pairs are taken and what is made of them.
    """

    candidate: str
    other: str
    role: str
    runtime: str
    threads: int
    batch_size: int
    inputs: str
    machine: str
    package: str
    procedure: str

    @property
    def key(self) -> str:
        """The name of the folder in which its attempts are kept."""
        return digest_of(self.model_dump(mode="json"))


class Attempt(Record):
    """One attempt at a timing, for itself.

    Args:
        number: from 1, oldest first. measured_at: UTC, ISO 8601.
        ratio, interval: of this attempt alone; None where it was too short, or ended in a ``reason``.
        pairs, turns: how many; control_ratio: of the other model and its copy.
        load_average: of the last minute, when it ended.
        samples_sha256: of the file with its samples.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    number: int
    timed: Timed
    measured_at: str
    ratio: float | None
    interval: tuple[float | None, float | None]
    pairs: int
    turns: int
    control_ratio: float | None = None
    load_average: float | None = None
    reason: str | None = None
    samples_sha256: str


def numbers_of(folder: Path) -> list[int]:
    """The numbers under which anything is kept in a key's folder, rising."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted({int(path.stem) for path in found if path.suffix in (".npz", ".json") and path.stem.isdecimal()})
