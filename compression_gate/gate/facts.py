"""Everything a verdict is reached from, read once: records, and what happened to every test example."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from compression_gate.errors import MetricsError
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import Benchmark, CompressionRecord, DataRecord, Evaluation
from compression_gate.records.params import Params, Rule

PREDICTIONS = Path("reports/predictions.npz")


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Per-example outcomes by role, joined by id, and the data's own columns as text. Arrays are (N,)."""

    ids: np.ndarray
    target: np.ndarray
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(np.unique(self.ids)) != len(self.ids):
            raise MetricsError(f"{PREDICTIONS}: expected unique ids, got {len(self.ids)} with repeats: evaluate again")

    @classmethod
    def read(cls, path: Path) -> Outcomes:
        """Read `predictions.npz`.

        Raises:
            MetricsError: missing, damaged, or columns of different lengths.
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
        outcomes = cls(ids=arrays.pop("ids"), target=arrays.pop("target"))
        for name, array in arrays.items():
            role, _, kind = name.partition("_")
            if role == "column":
                outcomes.columns[kind] = array.astype(np.str_)
            elif kind == "predicted":
                outcomes.predicted[role] = array
            elif kind.startswith("score_"):
                outcomes.scores.setdefault(role, {})[kind.removeprefix("score_")] = array
        return outcomes


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

    ``machine_digest`` is of this machine, as `run` found it; None where a stage is called by hand.
    """

    params: Params
    data: DataRecord | None = None
    compression: CompressionRecord | None = None
    evaluation: Evaluation | None = None
    outcomes: Outcomes | None = None
    benchmark: Benchmark | None = None
    machine_digest: str | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    @cached_property
    def absent(self) -> dict[str, str]:
        """Why a baseline or a release is not there."""
        both = {
            **(self.benchmark.absent if self.benchmark else {}),
            **(self.evaluation.absent if self.evaluation else {}),
        }
        return {
            role: both.get(role, "no such reference") for role in ("baseline", "release") if role not in self.artifacts
        }
