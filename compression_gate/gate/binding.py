"""A verdict holds for the very files it was reached from: their digests, and whether they still are the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from compression_gate import __version__
from compression_gate.errors import CompressionGateError, MetricsError, StaleError
from compression_gate.records.artifact import MODELS, Artifact
from compression_gate.records.base import digest_of, digest_of_file
from compression_gate.records.params import read_params
from compression_gate.records.state_files import HISTORY, MACHINE, PACKAGE, REFERENCES, SOURCES
from compression_gate.records.verdict import Verdict
from compression_gate.records.waivers import FILE_NAME as WAIVERS_FILE

LAID = (f"{REFERENCES}/baseline", f"{REFERENCES}/release")
RECORDS = (
    "models/reference/artifact.json",
    "models/candidate/artifact.json",
    "reports/data.json",
    "reports/compression.json",
    "reports/evaluation.json",
    "reports/predictions.npz",
    "reports/benchmark.json",
    "reports/timings.npz",
    WAIVERS_FILE,
    HISTORY,
)
ABSENT = "absent"
# What `run` writes beside the list of sources: where one of them lies and the list does not, it was lost.
RUN_FILES = (PACKAGE, MACHINE, HISTORY)
NO_SOURCES = "bound to no source file, since `compression-gate run` was never called here: a changed one goes unseen"


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a verdict holds for: ``bindings`` as :func:`bindings_of` has them, and the user's ``sources``.

    Either is empty where it cannot be had, which an error check of its own says.
    """

    bindings: dict[str, str]
    sources: dict[str, str]

    def changed_since(self, before: Held) -> list[str]:
        """What is not as it was, by name."""
        names = sorted({*self.bindings, *before.bindings})
        changed = [name for name in names if self.bindings.get(name) != before.bindings.get(name)]
        return changed if self.sources == before.sources else [*changed, SOURCES]


def held(suite: Path) -> Held:
    """Hash everything that a verdict is reached from."""
    try:
        bindings = bindings_of(suite)
    except (CompressionGateError, OSError):  # OSError: a file that goes while it is hashed
        bindings = {}
    return Held(bindings=bindings, sources=known_sources(suite))


def known_sources(suite: Path) -> dict[str, str]:
    """Digests of the user's sources; empty where they cannot be had."""
    try:
        return sources_of(suite)
    except CompressionGateError:
        return {}


def bindings_of(suite: Path) -> dict[str, str]:
    """The digest of every model and record of a suite, ``absent`` where there is none.

    Raises:
        StaleError: an artifact's files are not the ones its record lists.
    """
    return {
        **models_of(suite),
        **{name: digest_of_file(suite / name) if (suite / name).is_file() else ABSENT for name in RECORDS},
    }


def models_of(suite: Path) -> dict[str, str]:
    """The digest of every model of a suite, ``absent`` where there is none.

    Raises:
        StaleError: an artifact's files are not the ones its record lists.
    """
    own = {name: model_digest(suite / name) for name in MODELS}
    return own | {name: reference_digest(suite / name) for name in LAID}


def model_digest(folder: Path) -> str:
    """The digest of an artifact, over the files that really lie there."""
    return Artifact.open(folder).digest if folder.is_dir() else ABSENT


def reference_digest(folder: Path) -> str:
    """The digest of a baseline's or release's artifact; a folder that only says why there is none is absent."""
    return model_digest(folder) if holds_model(folder) else ABSENT


def holds_model(folder: Path) -> bool:
    """Whether a reference folder holds anything but the word that there is none."""
    return folder.is_dir() and any(path.name != ABSENT for path in folder.iterdir())


def sources_of(suite: Path) -> dict[str, str]:
    """Digests of the user's sources as `run` wrote them down; empty where nothing but stages was ever called, by hand.

    Raises:
        MetricsError: the list is damaged. StaleError: it is not there although `run` was.
    """
    try:
        sources = json.loads((suite / SOURCES).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if any((suite / name).exists() for name in RUN_FILES):
            raise StaleError(f"{SOURCES}: expected the files that were read, got no list of them: run again") from error
        return {}
    except (OSError, ValueError) as error:
        raise MetricsError(f"{suite / SOURCES}: damaged ({error}): `compression-gate run` writes it anew") from error
    if not isinstance(sources, dict) or not all(isinstance(value, str) for value in sources.values()):
        raise MetricsError(f"{suite / SOURCES}: expected paths and digests: `compression-gate run` writes it anew")
    return {str(path): str(digest) for path, digest in sources.items()}


def sources_digest(sources: dict[str, str]) -> str:
    """One digest over all sources."""
    return digest_of(sources)


def stale_reasons(verdict: Verdict, suite: Path) -> list[str]:
    """Everything on disk that is not what the verdict speaks of, one line each; empty if it holds.

    Raises:
        ParamsError: `params.yaml` cannot be read.
    """
    reasons = []
    if verdict.package_version != __version__:
        reasons.append(f"judged by version {verdict.package_version} of compression-gate, this is {__version__}")
    if read_params(suite).digest != verdict.params_digest:
        reasons.append("params.yaml: changed since")
    try:
        found = bindings_of(suite)
    except CompressionGateError as error:
        return [*reasons, str(error)]
    reasons += [f"{name}: the verdict says nothing of it" for name in found if name not in verdict.bindings]
    reasons += [
        f"{name}: {'gone' if found.get(name) == ABSENT else 'changed'} since"
        for name, digest in verdict.bindings.items()
        if found.get(name) != digest
    ]
    reasons += [f"{name}: {what} since" for name, what in changed_sources(verdict, suite)]
    if sources_digest(verdict.sources) != verdict.sources_digest:
        reasons.append("reports/verdict.json: its list of sources was edited")
    return reasons


def changed_sources(verdict: Verdict, suite: Path) -> list[tuple[str, str]]:
    """The user's sources that are gone or changed."""
    changed = []
    for name, digest in verdict.sources.items():
        path = suite / name
        if not path.is_file():
            changed.append((name, "gone"))
        elif digest_of_file(path) != digest:
            changed.append((name, "changed"))
    return changed
