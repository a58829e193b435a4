"""`prepare`: look at every example once, before anything is trained or judged on it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compression_gate.errors import DataError
from compression_gate.progress import tracked
from compression_gate.records.base import digest_of
from compression_gate.records.metrics import DataRecord, DataSplit
from compression_gate.records.params import read_params
from compression_gate.records.provenance import params_digests
from compression_gate.tasks.calling import named
from compression_gate.tasks.task import SPLITS, Split, Task, open_task

CHUNK = 512
MOST_EXAMPLES_NAMED = 3


@dataclass(kw_only=True)
class Findings:
    """What was seen of one split so far. ``seen`` is the digest of each input -> the first position that had it."""

    count: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    not_finite: list[int] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)
    shapes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    seen: dict[bytes, int] = field(default_factory=dict)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)


def run(suite: Path) -> DataRecord:
    """Inspect the splits and write `reports/data.json`.

    Raises:
        DataError: NaN or infinity, labels that are no classes, or leaks, duplicates and empty classes that
            `prepare.allow` does not name. All findings at once; nothing is written.
    """
    params = read_params(suite)
    task = open_task(params, suite)
    findings = {name: inspected(task, task.split(name)) for name in SPLITS}
    names = class_names(task)
    leaks = leaks_between(findings)
    fatal = [*not_finite_problems(findings), *label_problems(findings, names)]
    allowable = {
        "leaks": leak_problems(findings, leaks),
        "duplicates": duplicate_problems(findings),
        "empty_classes": empty_class_problems(findings, names),
    }
    unallowed = [text for kind, texts in allowable.items() if kind not in params.prepare.allow for text in texts]
    if fatal or unallowed:
        raise DataError("\n".join([*fatal, *unallowed]))
    record = DataRecord(
        digest=digest_of({name: seen.digest.hexdigest() for name, seen in findings.items()}),
        splits={name: described(seen, task.split(name)) for name, seen in findings.items()},
        leaks=leaks,
        problems=tuple(text for texts in allowable.values() for text in texts),
        allowed=params.prepare.allow,
        params_digests=params_digests("prepare", params),
    )
    record.write(suite / "reports" / "data.json")
    return record


def inspected(task: Task, split: Split) -> Findings:
    """Read every example of a split once."""
    seen = Findings()
    chunks = range(0, len(split), CHUNK)
    for start in tracked(chunks, len(chunks), f"prepare {split.name}"):
        items = split.items(range(start, min(start + CHUNK, len(split))))
        for offset, (inputs, target) in enumerate(items):
            position = int(split.indices[start + offset])  # as the dataset counts, for the user to look it up
            note(seen, inputs, target, position, is_label=task.params.kind == "classification", split=split.name)
    return seen


def note(seen: Findings, inputs: Any, target: Any, position: int, *, is_label: bool, split: str) -> None:
    """Add one example to the findings."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in arrays_of(inputs):
        seen.shapes.setdefault(name, set()).add(value.shape)
        digest.update(repr((name, value.shape, value.dtype.str)).encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
        if value.size and np.issubdtype(value.dtype, np.number):
            low, high = float(value.min()), float(value.max())
            if not np.isfinite(low + high):
                seen.not_finite.append(position)
            else:
                seen.low, seen.high = min(seen.low, low), max(seen.high, high)
    label = np.asarray(target)
    if is_label:
        if label.size != 1 or label.dtype.kind not in "iufb" or not float(label.reshape(-1)[0]).is_integer():
            raise DataError(
                f"task.data: split {split!r}, item {position}: expected a class number as target, got {target!r}: "
                "return an integer, or set task.kind"
            )
        seen.classes[int(label.reshape(-1)[0])] += 1
    elif np.issubdtype(label.dtype, np.number) and not np.isfinite(label).all():
        seen.not_finite.append(position)
    key = digest.digest()
    first = seen.seen.setdefault(key, position)
    if first != position:
        seen.duplicates.append((first, position))
    seen.digest.update(key + repr(label.tolist()).encode())
    seen.count += 1


def arrays_of(inputs: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every array of one example's input, with the name it has in the export."""
    if isinstance(inputs, Mapping):
        items: Any = inputs.items()
    elif isinstance(inputs, (tuple, list)) and any(isinstance(part, (torch.Tensor, np.ndarray)) for part in inputs):
        items = named(tuple(torch.as_tensor(part) for part in inputs)).items()
    else:
        items = [("input", inputs)]
    for name, value in items:
        yield name, value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def class_names(task: Task) -> list[str]:
    """The names of the classes where the dataset has them."""
    return [str(name) for name in getattr(task.split("train").dataset, "classes", [])]


def leaks_between(findings: Mapping[str, Findings]) -> dict[str, int]:
    """How many inputs of each pair of splits are the same: ``train/test`` -> count, pairs without any left out."""
    names = list(findings)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    counts = {f"{a}/{b}": len(findings[a].seen.keys() & findings[b].seen.keys()) for a, b in pairs}
    return {pair: count for pair, count in counts.items() if count}


def leak_problems(findings: Mapping[str, Findings], leaks: Mapping[str, int]) -> list[str]:
    """One line per pair of splits that share inputs."""
    lines = []
    for pair, count in leaks.items():
        first, second = pair.split("/")
        shared = sorted(
            findings[first].seen.keys() & findings[second].seen.keys(), key=findings[second].seen.__getitem__
        )
        shown = ", ".join(
            f"{first}:{findings[first].seen[key]} = {second}:{findings[second].seen[key]}"
            for key in shared[:MOST_EXAMPLES_NAMED]
        )
        lines.append(
            f"task.data: leak: expected {first} and {second} to share no input, got {count} ({shown}): "
            "remove them, or accept with `prepare: {allow: [leaks]}`"
        )
    return lines


def duplicate_problems(findings: Mapping[str, Findings]) -> list[str]:
    """One line per split that holds an input twice."""
    return [
        f"task.data: duplicates: split {name!r}: expected every input once, got {len(seen.duplicates)} again "
        f"({', '.join(f'{a} = {b}' for a, b in seen.duplicates[:MOST_EXAMPLES_NAMED])}): "
        "remove them, or accept with `prepare: {allow: [duplicates]}`"
        for name, seen in findings.items()
        if seen.duplicates
    ]


def empty_class_problems(findings: Mapping[str, Findings], names: list[str]) -> list[str]:
    """One line per split without any example of some class."""
    known = range(len(names)) if names else sorted({label for seen in findings.values() for label in seen.classes})
    return [
        f"task.data: empty_classes: split {name!r}: expected examples of every class, "
        f"got none of {', '.join(map(str, empty))}: "
        "add some, or accept with `prepare: {allow: [empty_classes]}`"
        for name, seen in findings.items()
        if seen.classes and (empty := [label for label in known if not seen.classes[label]])
    ]


def not_finite_problems(findings: Mapping[str, Findings]) -> list[str]:
    """One line per split with NaN or infinity."""
    return [
        f"task.data: split {name!r}: expected finite numbers, got NaN or infinity in {len(seen.not_finite)} examples "
        f"(first: {seen.not_finite[0]}): clean the data"
        for name, seen in findings.items()
        if seen.not_finite
    ]


def label_problems(findings: Mapping[str, Findings], names: list[str]) -> list[str]:
    """One line per split with labels that are no classes."""
    lines = []
    for name, seen in findings.items():
        outside = sorted(label for label in seen.classes if label < 0 or (names and label >= len(names)))
        if outside:
            wanted = f"0 to {len(names) - 1}" if names else "0 or more"
            lines.append(
                f"task.data: split {name!r}: expected labels {wanted}, got {', '.join(map(str, outside))}: "
                "number the classes from 0"
            )
    return lines


def described(seen: Findings, split: Split) -> DataSplit:
    """Turn findings into the record of a split; axes that vary are shown as ``*``."""
    finite = seen.low <= seen.high
    return DataSplit(
        n=seen.count,
        digest=seen.digest.hexdigest(),
        input_shapes={name: common_shape(shapes) for name, shapes in seen.shapes.items()},
        value_range=(seen.low, seen.high) if finite else (None, None),
        class_counts={str(label): seen.classes[label] for label in sorted(seen.classes)} or None,
        not_finite=len(seen.not_finite),
        duplicates=len(seen.duplicates),
        cut_from_train=split.cut_from_train,
    )


def common_shape(shapes: set[tuple[int, ...]]) -> tuple[int | str, ...]:
    """The shape all examples share, ``*`` where they differ."""
    if len({len(shape) for shape in shapes}) > 1:
        return ("*",)
    return tuple(sizes[0] if len(set(sizes)) == 1 else "*" for sizes in zip(*shapes, strict=True))
