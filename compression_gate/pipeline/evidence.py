"""What `run --again` asks and tells: which timings of the models on disk there are, and what they came to."""

from __future__ import annotations

from pathlib import Path

from compression_gate.errors import MetricsError, ParamsError
from compression_gate.measurers.machine import timing_environment
from compression_gate.records.artifact import FILE_NAME, Artifact
from compression_gate.records.attempts import EVIDENCE, Attempt, numbers_of
from compression_gate.records.base import digest_of
from compression_gate.records.metrics import Benchmark
from compression_gate.records.params import Params, read_params
from compression_gate.records.state_files import REFERENCES
from compression_gate.reporters.record_tables import timing_text

FOLDERS = {
    "reference": Path("models/reference"),
    "baseline": Path(REFERENCES) / "baseline",
    "release": Path(REFERENCES) / "release",
}


def attempts(suite: Path) -> dict[str, list[Attempt]]:
    """Every attempt at timing the candidate on disk against the models on disk, by role, oldest first.

    Only roles that were timed are there, on this machine and with these params. An attempt whose record cannot be read
    is left out here; the benchmark stage names it.
    """
    wanted = expected(suite, read_params(suite))
    found: dict[str, list[Attempt]] = {}
    for folder in sorted((suite / EVIDENCE).glob("*")):
        kept = kept_in(folder)
        role = kept[0].timed.role if kept else ""
        if role not in wanted or not wanted[role].items() <= kept[0].timed.model_dump().items():
            continue
        # Inputs of another shape, which only the stage can tell, make another key: the last one used counts.
        if role not in found or kept[-1].measured_at > found[role][-1].measured_at:
            found[role] = kept
    return found


def expected(suite: Path, params: Params) -> dict[str, dict[str, str | int]]:
    """For each role on disk, what an attempt at timing it says, as far as it can be known without loading a model."""
    from compression_gate import __version__

    candidate = digest_in(suite / "models/candidate")
    digests = {role: digest_in(suite / folder) for role, folder in FOLDERS.items()}
    options = params.benchmark
    shared: dict[str, str | int] = {
        "runtime": params.compress.runtime,
        "threads": options.threads,
        "batch_size": options.batch_sizes[0],
        "machine": digest_of(timing_environment(options.threads)),
        "package": __version__,
    }
    return {
        role: {"candidate": candidate, "other": other, "role": role, **shared}
        for role, other in digests.items()
        if candidate is not None and other is not None
    }


def digest_in(folder: Path) -> str | None:
    """The digest that a model's record states; None where there is no readable one."""
    try:
        return Artifact.read(folder / FILE_NAME).digest
    except MetricsError:
        return None


def kept_in(folder: Path) -> list[Attempt]:
    """The readable records of one key's folder, oldest first."""
    kept = []
    for number in numbers_of(folder):
        try:
            kept.append(Attempt.read(folder / f"{number}.json"))
        except MetricsError:
            continue
    return kept


def require_earlier(suite: Path) -> None:
    """Refuse `run --again` where there is nothing that it could add to.

    Raises:
        ParamsError: no timing of the models on disk was kept on this machine with these params.
    """
    if not attempts(suite):
        raise ParamsError(
            f"--again: nothing to add to: expected a timing of models/candidate in {EVIDENCE}, taken on this machine "
            "with these params, got none: `compression-gate run` takes the first"
        )


def attempts_lines(suite: Path) -> list[str]:
    """What every attempt came to, and all together, which is what is judged; nothing where nothing was timed."""
    try:
        pairs = Benchmark.read(suite / "reports/benchmark.json").pairs
    except MetricsError:
        pairs = {}
    lines = []
    for role, found in attempts(suite).items():
        lines += [f"against the {role}, {told(attempt)}" for attempt in found]
        if role in pairs:
            lines.append(f"against the {role}, judged: {timing_text(role, pairs[role])}")
    return lines


def told(attempt: Attempt) -> str:
    """One attempt in a line."""
    low, high = attempt.interval
    head = f"attempt {attempt.number} ({attempt.measured_at}): "
    if attempt.ratio is None:
        return f"{head}no figure: {attempt.reason or 'too few pairs'}"
    span = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    load = f", load {attempt.load_average:.1f}" if attempt.load_average is not None else ""
    return f"{head}{attempt.ratio:.3f} of its time{span}, {attempt.pairs:,} pairs in {attempt.turns} processes{load}"
