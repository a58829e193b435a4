"""Single examples and single calls summed up to counts: what a report may show of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gate.records.base import digest_of_file
from compression_gate.records.metrics import Evaluation
from compression_gate.reporters.base import Confusion, Histogram, Samples

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

MOST_CLASSES = 25  # a larger matrix has no room on a page; its largest changes are told all the same
MOST_CHANGES = 12
BINS = 60
OUTERMOST = 0.01  # of all calls, on either side, lie beyond the drawing


def samples_of(predictions: Path, timings: Path, evaluation: Evaluation | None, timings_digest: str | None) -> Samples:
    """Sum up what lies in both files; a file that is missing, damaged or of another run gives nothing.

    ``timings_digest``: of the calls that the verdict rests on; None where it names none.
    """
    confusion = None
    if evaluation and evaluation.kind == "classification" and matches(predictions, evaluation.predictions_digest):
        confusion = confusion_of(arrays_of(predictions), evaluation.classes)
    return Samples(confusion=confusion, calls=calls_of(arrays_of(timings)) if matches(timings, timings_digest) else {})


def matches(path: Path, digest: str | None) -> bool:
    """Whether a file is there, and its content the one that is spoken of."""
    return path.is_file() and digest_of_file(path) == digest


def arrays_of(path: Path) -> Arrays:
    """Every array of a file; none where it cannot be read: the verdict says so already."""
    import numpy as np

    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # noqa: BLE001  # a cut zip fails with errors of several libraries
        return {}


def confusion_of(arrays: Arrays, names: tuple[str, ...]) -> Confusion | None:
    """True classes against predicted ones, for the reference and the candidate, and where they differ most."""
    import numpy as np

    wanted = ("target", "reference_predicted", "candidate_predicted")
    if not all(name in arrays and arrays[name].ndim == 1 for name in wanted):
        return None
    target, *predicted = (arrays[name] for name in wanted)
    if not len(target) or any(len(labels) != len(target) for labels in predicted):
        return None
    labels = np.unique(np.concatenate([target, *predicted]))
    number = len(labels)
    rows = np.searchsorted(labels, target)
    before, after = (
        np.bincount(rows * number + np.searchsorted(labels, found), minlength=number**2).reshape(number, number)
        for found in predicted
    )
    known = [names[label] if 0 <= label < len(names) else str(label) for label in labels.tolist()]
    moved = after - before
    moved[np.diag_indices(number)] = 0
    most = sorted(zip(*np.nonzero(moved), strict=True), key=lambda at: (-abs(int(moved[at])), at))[:MOST_CHANGES]
    fits = number <= MOST_CLASSES
    return Confusion(
        labels=tuple(known),
        before=tuple(map(tuple, before.tolist())) if fits else (),
        after=tuple(map(tuple, after.tolist())) if fits else (),
        errors=(int(before.sum() - np.trace(before)), int(after.sum() - np.trace(after))),
        changes=tuple((known[i], known[j], int(before[i, j]), int(after[i, j])) for i, j in most),
    )


def calls_of(arrays: Arrays) -> dict[str, tuple[Histogram, Histogram]]:
    """For each model timed against: its calls and the candidate's, in bins of the same logarithm of time.

    The arrays are ``<role>_pairs_<turn>_cpu`` (2, N) [s]: the other model's calls, then the candidate's.
    """
    import numpy as np

    roles = dict.fromkeys(
        name.partition("_pairs_")[0] for name in arrays if "_pairs_" in name and name.endswith("_cpu")
    )
    found = {}
    for role in roles:
        turns = [
            array
            for name, array in arrays.items()
            if name.startswith(f"{role}_pairs_") and name.endswith("_cpu") and array.ndim == 2 and len(array) == 2
        ]
        if not turns:
            continue
        both = np.concatenate(turns, axis=1).astype(float) * 1e3
        both = both[:, np.isfinite(both).all(0) & (both > 0).all(0)]
        if both.shape[1] < BINS:
            continue
        ends = np.quantile(both, [OUTERMOST, 1 - OUTERMOST])
        edges = np.geomspace(ends[0] / 1.02, ends[1] * 1.02, BINS + 1)
        other, candidate = (histogram_of(calls, edges) for calls in both)
        found[role] = (other, candidate)
    return found


def histogram_of(calls: np.ndarray, edges: np.ndarray) -> Histogram:
    """Counts of calls (N,) [ms] between edges (B + 1,)."""
    import numpy as np

    counts, _ = np.histogram(calls, edges)
    return Histogram(
        edges=tuple(rounded(float(edge)) for edge in edges),
        counts=tuple(int(count) for count in counts),
        n=len(calls),
        middle=rounded(float(np.median(calls))),
    )


def rounded(value: float) -> float:
    """Six digits: the last bits of a quantile differ between processors."""
    return float(f"{value:.6g}") if math.isfinite(value) else value
