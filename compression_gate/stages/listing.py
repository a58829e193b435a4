"""`list`: everything that can be named in `params.yaml`, with its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from compression_gate import registry
from compression_gate.errors import ParamsError
from compression_gate.records.metric_table import METRICS
from compression_gate.records.params import Perturbation
from compression_gate.records.perturbation_table import PERTURBATIONS
from compression_gate.records.rules import LIMIT_NAMES, Rule
from compression_gate.registry import Plugin, nearest

Row = dict[str, str]


def rows_of(kind: str) -> list[Row]:
    """The rows of one kind: name, summary, options.

    Raises:
        ParamsError: no such kind.
    """
    if kind not in KINDS:
        raise ParamsError(f"list: expected one of {', '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")
    return KINDS[kind]()


def methods() -> list[Row]:
    """Compression methods with their options and defaults."""
    from compression_gate.methods import METHODS

    return [
        {"name": name, "summary": row.summary, "options": options_of(registry.load("methods", name, METHODS))}
        for name, row in METHODS.items()
    ]


def options_of(record: Any) -> str:
    """A method's options as ``name=default``."""
    return ", ".join(
        field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default!r}"
        for field in dataclasses.fields(record)
    )


def metrics() -> list[Row]:
    """Metrics with the way they are judged."""
    return [
        {"name": name, "summary": metric.summary, "options": f"{metric.kind}, {metric.better} is better"}
        for name, metric in METRICS.items()
    ]


def rules() -> list[Row]:
    """The forms a rule's limit may take, and its other keys."""
    meaning = {
        "max": "the value is at most this",
        "min": "the value is at least this",
        "max_drop": "it falls by at most this, or by this share ('5%'), below what it is held against",
        "max_increase": "it rises by at most this, or by this share ('5%'), above what it is held against",
    }
    others = [name for name in Rule.model_fields if name not in LIMIT_NAMES]
    return [{"name": name, "summary": meaning[name], "options": ", ".join(others)} for name in LIMIT_NAMES]


def plugins(table: Mapping[str, Plugin]) -> list[Row]:
    """A plugin table without loading it."""
    return [
        {"name": name, "summary": row.summary, "options": f"needs [{row.needs}]" if row.needs else ""}
        for name, row in table.items()
    ]


def runtimes() -> list[Row]:
    """Runtimes a candidate can ship to."""
    from compression_gate.runtimes import RUNTIMES

    return plugins(RUNTIMES)


def reporters() -> list[Row]:
    """Forms the report takes."""
    from compression_gate.reporters import REPORTERS

    return plugins(REPORTERS)


def searchers() -> list[Row]:
    """Who proposes recipes."""
    from compression_gate.search import SEARCHERS

    return plugins(SEARCHERS)


def executors() -> list[Row]:
    """Where trials of a search run."""
    from compression_gate.search.executors import EXECUTORS

    return plugins(EXECUTORS)


def augmentations() -> list[Row]:
    """Augmentations of the built-in training loop."""
    from compression_gate.tasks.augment import AUGMENTATIONS

    return [
        {"name": name, "summary": (function.__doc__ or "").strip(), "options": ""}
        for name, function in AUGMENTATIONS.items()
    ]


def perturbations() -> list[Row]:
    """Disturbances of the test inputs, under which `evaluate` asks every model once more."""
    default = Perturbation.model_fields["strength"].default
    return [
        {"name": name, "summary": summary, "options": f"strength={default!r}"}
        for name, summary in PERTURBATIONS.items()
    ]


KINDS: dict[str, Callable[[], list[Row]]] = {
    "methods": methods,
    "metrics": metrics,
    "rules": rules,
    "runtimes": runtimes,
    "reporters": reporters,
    "searchers": searchers,
    "executors": executors,
    "augmentations": augmentations,
    "perturbations": perturbations,
}
