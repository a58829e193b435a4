"""`prepare`: look at every example once, before anything is trained or judged on it."""

from __future__ import annotations

import hashlib
import math
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from compression_gate.errors import DataError, TaskError
from compression_gate.progress import tracked
from compression_gate.records.base import digest_of
from compression_gate.records.metrics import DataRecord, DataSplit
from compression_gate.records.params import read_params
from compression_gate.records.provenance import params_digests
from compression_gate.tasks.calling import named
from compression_gate.tasks.task import SPLITS, Split, Task, offered, open_task

CHUNK = 512
MOST_EXAMPLES_NAMED = 3
Arrays: TypeAlias = list[tuple[str, np.ndarray]]  # with their names
Shape: TypeAlias = tuple[int | str, ...]  # of one example; `*` for an axis that varies


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
        DataError: NaN or infinity, labels that are no classes, inputs of another shape than train's, or leaks,
            duplicates and empty classes that `prepare.allow` does not name. All findings at once; nothing is written.
    """
    params = read_params(suite)
    task = open_task(params, suite)
    findings = {name: inspected(task, task.split(name)) for name in SPLITS}
    names = class_names(task)
    leaks = leaks_between(findings)
    fatal = [
        *not_finite_problems(findings),
        *label_problems(findings, names),
        *shape_problems({name: shapes_of(task, name, seen) for name, seen in findings.items()}, task.params.dynamic),
    ]
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
    where = f"task.data: split {split!r}, item {position}"
    given = [(name.removeprefix("input."), array) for name, array in leaves(inputs, "input", where)]
    wanted = list(leaves(target, "target", where))
    for name, array in given:
        seen.shapes.setdefault(name, set()).add(array.shape)
    ends = extremes(given)
    if all(map(math.isfinite, ends + extremes(wanted))):
        seen.low, seen.high = min([seen.low, *ends]), max([seen.high, *ends])
    else:
        seen.not_finite.append(position)
    key = content_of(given)
    first = seen.seen.setdefault(key, position)
    if first != position:
        seen.duplicates.append((first, position))
    if is_label:
        label = label_of(wanted)
        if label is None:
            raise DataError(
                f"{where}: expected a class number as target, got {reprlib.repr(target)}: "
                "return an integer, or set task.kind"
            )
        seen.classes[int(label.item())] += 1
        seen.digest.update(key + repr(label.tolist()).encode())
    else:
        seen.digest.update(key + content_of(wanted))
    seen.count += 1


def extremes(arrays: Arrays) -> list[float]:
    """The smallest and the largest number of each array, NaN where there is one in it; of complex numbers the sizes."""
    numbers = (array for _, array in arrays if array.dtype.kind in "iufc" and array.size)
    sizes = (np.abs(array) if array.dtype.kind == "c" else array for array in numbers)
    return [float(end) for array in sizes for end in (array.min(), array.max())]


def label_of(arrays: Arrays) -> np.ndarray | None:
    """The one array of a target if it is one whole number, or None."""
    label = arrays[0][1] if len(arrays) == 1 else np.empty(0)
    whole = label.size == 1 and label.dtype.kind in "iufb" and float(label.item()).is_integer()
    return label if whole else None


def content_of(arrays: Arrays) -> bytes:
    """A digest of names, shapes, types and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in arrays:
        digest.update(repr((name, array.shape, array.dtype.str)).encode())
        digest.update(array.tobytes())
    return digest.digest()


def leaves(value: Any, name: str, where: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every array in an example's input or target, with its name: for inputs that of the export, or ``input.it``.

    Raises:
        TaskError: something else is in there, which has no bytes of its own.
    """
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from leaves(part, f"{name}.{key}", where)
    elif (array := array_of(value)) is not None:
        yield name, array
    elif isinstance(value, (tuple, list)):
        for index, part in enumerate(value):
            yield from leaves(part, f"{name}_{index}", where)
    else:
        raise TaskError(
            f"{where}: {name}: expected tensors, arrays, numbers, text or None, in dicts, tuples and lists, "
            f"got {type(value).__name__}: return these, and let task.collate make of them what the model takes"
        )


def array_of(value: Any) -> np.ndarray | None:
    """The array that a value is, lists of numbers or text included; None where it holds several, or no plain values.

    bfloat16, which numpy lacks, is given as float32, which holds all of its numbers.
    """
    if isinstance(value, (tuple, list)) and any(isinstance(part, (torch.Tensor, np.ndarray)) for part in value):
        return None
    try:
        if isinstance(value, torch.Tensor):
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy(force=True)
        array = np.asarray(repr(value) if value is None else value)
    except (TypeError, ValueError, RuntimeError):  # rows of various lengths, a sparse tensor
        return None
    return None if array.dtype.hasobject else array


def class_names(task: Task) -> list[str]:
    """The names of the classes where the dataset has them."""
    return [str(name) for name in offered(task.split("train").dataset, "classes") or ()]


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


def shapes_of(task: Task, split: str, seen: Findings) -> dict[str, Shape]:
    """The shapes of one example as the model takes it, by name of the input."""
    if task.collate is None:
        return {name: common_shape(shapes) for name, shapes in seen.shapes.items()}
    return {name: tuple(value.shape[1:]) for name, value in named(task.example_inputs(2, split)).items()}


def shape_problems(splits: Mapping[str, Mapping[str, Shape]], dynamic: Mapping[str, Mapping[int, str]]) -> list[str]:
    """One line per input of a split that is not shaped as train's."""
    return [
        f"task.data: split {name!r}, {given}: expected shape {shown(wanted)} as in train, got {shown(shapes[given])}: "
        "give every split inputs of one shape, or name in task.dynamic the axes that may differ"
        for name, shapes in splits.items()
        for given, wanted in splits["train"].items()
        if given in shapes and differ(wanted, shapes[given], dynamic.get(given, {}))
    ]


def differ(first: Shape, second: Shape, dynamic: Mapping[int, str]) -> bool:
    """Whether two shapes differ elsewhere than where they vary; ``dynamic`` counts the batch as axis 0."""
    if len(first) != len(second):
        return ("*",) not in (first, second)  # which stands for any number of axes
    fixed = (sizes for axis, sizes in enumerate(zip(first, second, strict=True), 1) if axis not in dynamic)
    return any(one != other for one, other in fixed if "*" not in (one, other))


def shown(shape: Shape) -> str:
    """A shape as text, its ``*`` without quotes."""
    return str(shape).replace("'", "")


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


def common_shape(shapes: set[tuple[int, ...]]) -> Shape:
    """The shape all examples share, ``*`` where they differ."""
    if len({len(shape) for shape in shapes}) > 1:
        return ("*",)
    return tuple(sizes[0] if len(set(sizes)) == 1 else "*" for sizes in zip(*shapes, strict=True))
