"""Everything a verdict is reached from, read once: records, and what happened to every test example."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from compression_gate.errors import CompressionGateError, MetricsError
from compression_gate.records.artifact import Artifact
from compression_gate.records.history import History
from compression_gate.records.metrics import Benchmark, CompressionRecord, DataRecord, Evaluation
from compression_gate.records.params import Params
from compression_gate.records.perturbation_table import PERTURBATION, PERTURBATIONS
from compression_gate.records.rules import Rule

PREDICTIONS = Path("reports/predictions.npz")


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Per-example outcomes by role, joined by id, and the data's own columns as text. Arrays are (N,).

    ``disturbed`` holds, by perturbation, the outcomes of the same examples under it.
    """

    ids: np.ndarray
    target: np.ndarray
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    disturbed: dict[str, Outcomes] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Outcomes:
        """Read `predictions.npz`.

        Raises:
            MetricsError: missing, damaged, columns of different lengths, or ids that repeat.
        """
        try:
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError) as error:
            raise MetricsError(f"{path}: missing or damaged ({error}): run evaluate again") from error
        except Exception as error:  # a cut zip fails with errors of several libraries
            raise MetricsError(f"{path}: damaged ({type(error).__name__}: {error}): run evaluate again") from error
        if "ids" not in arrays or "target" not in arrays:
            raise MetricsError(f"{path}: expected ids and target, got {', '.join(arrays)}: run evaluate again")
        if len({len(array) for array in arrays.values()}) != 1:
            raise MetricsError(f"{path}: expected columns of one length, got others: run evaluate again")
        # A label that is no number is wrong like any other, and would hide among those that are.
        for name, array in arrays.items():
            if (name == "target" or name.endswith("_predicted")) and (odd := not_finite(array)) is not None:
                raise MetricsError(f"{path}: {name}: expected finite numbers, got {odd}: run evaluate again")
        ids, target = arrays.pop("ids"), arrays.pop("target")
        if len(np.unique(ids)) != len(ids):
            raise MetricsError(f"{path}: expected unique ids, got {len(ids)} with repeats: run evaluate again")
        outcomes = cls(ids=ids, target=target)
        for name, array in arrays.items():
            perturbation, _, rest = name.partition("@")
            # A column or a score of the user's may hold an @ itself, as precision@5 does.
            if rest and perturbation in PERTURBATIONS:
                outcomes.disturbed.setdefault(perturbation, cls(ids=ids, target=target)).put(rest, array)
            else:
                outcomes.put(name, array)
        return outcomes

    def put(self, name: str, array: np.ndarray) -> None:
        """File one array under what its name says it is."""
        role, _, kind = name.partition("_")
        if role == "column":
            self.columns[kind] = array.astype(np.str_)
        elif kind == "predicted":
            self.predicted[role] = array
        elif kind.startswith("score_"):
            self.scores.setdefault(role, {})[kind.removeprefix("score_")] = array

    @cached_property
    def groups(self) -> dict[str, tuple[dict[str, int], np.ndarray]]:
        """For each column that makes slices: the number of each value, and the number of each example (N,)."""
        columns = {**({"class": self.target} if self.predicted else {}), **self.columns}
        groups = {}
        for name, values in columns.items():
            distinct, codes = np.unique(values, return_inverse=True)
            groups[name] = ({str(value): number for number, value in enumerate(distinct.tolist())}, codes)
        return groups

    @property
    def slices(self) -> list[str]:
        """The names of all slices that there are examples of."""
        parts = [f"{column}={value}" for column, (values, _) in self.groups.items() for value in values]
        return [*parts, *(f"{PERTURBATION}={name}" for name in self.disturbed)]

    @cached_property
    def counted(self) -> dict[tuple[str, ...], np.ndarray]:
        """Counts that many slices share, kept by whoever made them."""
        return {}


def not_finite(array: np.ndarray) -> float | None:
    """The first NaN or infinity of an array, None where there is none."""
    odd = array[~np.isfinite(array)] if array.dtype.kind == "f" else array[:0]
    return float(odd[0]) if len(odd) else None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A slice of the test set: which outcomes, and which examples of them.

    Args:
        column: the column it is a value of, None for all examples. number: which value.
    """

    outcomes: Outcomes
    column: str | None = None
    number: int = 0

    @property
    def inside(self) -> np.ndarray:
        """Which examples it holds, (N,) of booleans."""
        if self.column is None:
            return np.ones(len(self.outcomes.target), dtype=bool)
        return np.asarray(self.outcomes.groups[self.column][1] == self.number)


NOBODY = "none was looked for, since the stage was called without `compression-gate run`"


def part_of(name: str | None, outcomes: Outcomes) -> Part | None:
    """The slice ``column=value`` (both may hold an equals sign), all examples for None; None if there is no such."""
    if name is None:
        return Part(outcomes=outcomes)
    if (disturbed := outcomes.disturbed.get(name.removeprefix(f"{PERTURBATION}="))) is not None:
        return Part(outcomes=disturbed)
    column = max((column for column in outcomes.groups if name.startswith(f"{column}=")), key=len, default=None)
    if column is None:
        return None
    number = outcomes.groups[column][0].get(name.removeprefix(f"{column}="))
    # A class that no test example is of is a slice without examples, and not no slice.
    return Part(outcomes=outcomes, column=column, number=-1 if number is None else number)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One rule asked of one slice, held against one role."""

    name: str
    rule: Rule
    slice: str | None
    against: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The records of one run. A record that could not be read is None, with the reason in ``missing``.

    ``machine_digest`` is of this machine, as `run` found it; None where a stage is called by hand. ``laid_absent`` is
    why `run` found no baseline or release, which an older evaluation may tell otherwise. ``alpha`` is how often each
    one-sided bound of a quality may be wrong.
    """

    params: Params
    alpha: float
    data: DataRecord | None = None
    compression: CompressionRecord | None = None
    evaluation: Evaluation | None = None
    outcomes: Outcomes | None = None
    benchmark: Benchmark | None = None
    machine_digest: str | None = None
    history: History = field(default_factory=History)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    missing: dict[str, CompressionGateError] = field(default_factory=dict)
    laid_absent: dict[str, str] = field(default_factory=dict)

    @cached_property
    def absent(self) -> dict[str, str]:
        """Why a baseline or a release is not there; one that was measured and is gone is stale."""
        records = [record for record in (self.benchmark, self.evaluation) if record]
        found = {role: why for record in records for role, why in record.absent.items()}
        measured = {role for record in records for role in record.models}
        return {
            role: "stale: it was measured, and its files are gone since"
            if role in measured
            else self.laid_absent.get(role) or found.get(role, NOBODY)
            for role in ("baseline", "release")
            if role not in self.artifacts
        }
