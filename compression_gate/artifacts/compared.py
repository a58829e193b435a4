"""Which models a run compares: the reference, the candidate, and the baseline and the release where there are any."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from compression_gate.artifacts.decoding import decoded
from compression_gate.artifacts.exporting import CODED, CODED_FILE, runtime_of
from compression_gate.errors import MetricsError
from compression_gate.records.artifact import FILE_NAME, Artifact
from compression_gate.records.params import Params
from compression_gate.records.state_files import REFERENCES


@dataclass(frozen=True, kw_only=True)
class Models:
    """Artifacts by role, the file of each that the runtime loads, and why a role is not there.

    ``coded`` holds the coded file of each role that ships one.
    """

    artifacts: dict[str, Artifact] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    coded: dict[str, Path] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def open_models(suite: Path, params: Params) -> Models:
    """Open every artifact and make sure that its files are those it lists; a coded candidate is decoded.

    Raises:
        MetricsError: the reference or the candidate is missing or not exported for this runtime.
        StaleError: files changed since the artifact was written.
        MeasurementError: the candidate's coded file cannot be decoded.
    """
    models, file_name = Models(), runtime_of(params).file_name
    for role in ("reference", "candidate"):
        folder = suite / "models" / role
        artifact = Artifact.open(folder)
        if file_name not in artifact.files:
            raise MetricsError(
                f"{folder}: expected {file_name}, the runtime's file, got {', '.join(artifact.files)}: run train and "
                "compress again after changing compress.runtime"
            )
        models.artifacts[role], models.files[role] = artifact, folder / file_name
    if models.artifacts["candidate"].format == CODED:
        folder = suite / "models/candidate"
        models.coded["candidate"] = folder / CODED_FILE
        models.files["candidate"] = decoded(suite, models.artifacts["candidate"], folder, params)
    add_references(models, suite / REFERENCES, file_name)
    return models


def add_references(models: Models, references: Path, file_name: str) -> None:
    """Add the baseline and the release that lie in a folder, or why they do not."""
    for role in ("baseline", "release"):
        folder = references / role
        if reason := why_absent(folder):
            models.absent[role] = reason
            continue
        artifact = Artifact.open(folder)
        if file_name not in artifact.files:
            models.absent[role] = f"recorded for another runtime: it has {', '.join(artifact.files)}, not {file_name}"
            continue
        models.artifacts[role], models.files[role] = artifact, folder / file_name
        if artifact.format == CODED:
            models.coded[role] = folder / CODED_FILE


def why_absent(folder: Path) -> str | None:
    """The reason why a reference folder holds no artifact; None if it holds one."""
    if (folder / FILE_NAME).exists():
        return None
    if (folder / "absent").exists():
        return (folder / "absent").read_text(encoding="utf-8").strip() or "no reason was recorded"
    return "no reference folder"
