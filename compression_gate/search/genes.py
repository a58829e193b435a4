"""Genes: the single choices that a genome is made of, as `params.yaml` declares them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from compression_gate.errors import ParamsError

NUMBER_KEYS = {"low", "high", "step", "log"}
LAYERED = ("by_layer", "by_group")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several values, without an order."""

    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values)

    def at(self, place: float) -> Any:
        """The value at a place of [0, 1): all are equally likely."""
        return self.values[min(int(place * self.size), self.size - 1)]

    def nearest(self, value: Any) -> Any:
        """The value itself, or the first where it is none of them."""
        return value if value in self.values else self.values[0]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number of a range, both ends included.

    Args:
        step: between values; None for any value. Whole numbers have a step of 1 where none is given.
        log: whether equal ratios, not equal differences, are equally likely.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether values are integers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step if self.step else 1))

    @property
    def count(self) -> int | None:
        """How many values there are; None where any number of the range is one."""
        if self.log or (self.step is None and not self.whole):
            return None
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def at(self, place: float) -> float:
        """The value at a place of [0, 1): all are equally likely."""
        if self.log:
            value = self.low * (self.high / self.low) ** place
            return int(min(max(round(value), self.low), self.high)) if self.whole else value
        if self.count is None:
            return self.low + place * (self.high - self.low)
        return self.nth(int(place * self.count))

    def place(self, value: float) -> float:
        """The place of [0, 1] at which a value stands: of so many values the middle of its share."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        if self.count is None:
            return (value - self.low) / (self.high - self.low)
        return (round((value - self.low) / (self.step or 1)) + 0.5) / self.count

    def nth(self, index: int) -> float:
        """The value after so many steps, the last one where there are fewer."""
        value = self.low + (self.step or 1) * min(index, (self.count or 1) - 1)
        return int(value) if self.whole else round(value, 12)

    def nearest(self, value: Any) -> float:
        """The value of the range that is nearest to a number; its middle for what is none."""
        if not is_number(value):
            return self.at(0.5)
        inside = float(min(max(value, self.low), self.high))
        if self.count is None:
            return round(inside) if self.whole else inside
        return self.nth(round((inside - self.low) / (self.step or 1)))


Gene = Choice | Number


@dataclass(frozen=True, kw_only=True)
class ByLayer:
    """A gene for each layer, or for each of so many groups of layers that bear about the same."""

    gene: Gene
    groups: int | None = None


def gene_of(value: Any, where: str) -> Gene | ByLayer | None:
    """Read one declared option; None where it is no choice but a value.

    Raises:
        ParamsError: a range without both ends, the wrong way round, or with an end that its scale has not.
    """
    if isinstance(value, list):
        if not value:
            raise ParamsError(f"{where}: expected at least one value to choose from, got []")
        return Choice(values=tuple(value))
    if not isinstance(value, Mapping):
        return None
    if (layered := [key for key in LAYERED if key in value]) and set(value) <= {*LAYERED, "groups"}:
        inner = gene_of(value[layered[0]], f"{where}.{layered[0]}")
        groups = value.get("groups") if layered[0] == "by_group" else None
        if not isinstance(inner, (Choice, Number)):
            raise ParamsError(f"{where}.{layered[0]}: expected a list or a range, got {value[layered[0]]!r}")
        if layered[0] == "by_group" and (not isinstance(groups, int) or isinstance(groups, bool) or groups < 1):
            raise ParamsError(f"{where}.groups: expected a whole number of 1 or more, got {groups!r}")
        return ByLayer(gene=inner, groups=groups)
    if value and set(value) <= NUMBER_KEYS:
        return number_of(value, where)
    return None


def number_of(value: Mapping[str, Any], where: str) -> Number:
    """Read ``{low, high, step, log}``."""
    wrong = [key for key in ("low", "high") if not is_number(value.get(key))]
    wrong += [key for key in ("step",) if key in value and not (is_number(value[key]) and value[key] > 0)]
    if wrong:
        raise ParamsError(f"{where}.{key}: expected a number, got {value.get(key)!r}" for key in wrong)
    low, high, log = value["low"], value["high"], value.get("log", False)
    if not low < high:
        raise ParamsError(f"{where}: expected low under high, got {low!r} and {high!r}")
    if not isinstance(log, bool) or (log and (low <= 0 or "step" in value)):
        raise ParamsError(f"{where}.log: expected a low end over 0 and no step, got {dict(value)!r}")
    return Number(low=low, high=high, step=value.get("step"), log=log)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number and no flag."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def genes_in(options: Mapping[str, Any], where: str) -> Iterator[tuple[str, Gene | ByLayer]]:
    """Every gene of a step's options, those inside mappings too: (dotted key, gene)."""
    for key, value in options.items():
        gene = gene_of(value, f"{where}.{key}")
        if gene is not None:
            yield str(key), gene
        elif isinstance(value, Mapping) and set(value) != {"value"}:
            yield from ((f"{key}.{name}", inner) for name, inner in genes_in(value, f"{where}.{key}"))


def filled(options: Mapping[str, Any], values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The options with every gene replaced by its value, and ``{value: x}`` by x."""
    found: dict[str, Any] = {}
    for key, value in options.items():
        name = f"{prefix}{key}"
        if name in values:
            found[key] = values[name]
        elif isinstance(value, Mapping):
            found[key] = value["value"] if set(value) == {"value"} else filled(value, values, f"{name}.")
        else:
            found[key] = value
    return found


def any_by_layer(genes: Mapping[str, Gene | ByLayer]) -> bool:
    """Whether layers have strengths of their own."""
    return any(isinstance(gene, ByLayer) for gene in genes.values())


def flattened(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a step's options, mappings and what is in them: (dotted key, value)."""
    for key, value in options.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{key}.")


def grouped(layers: Iterable[str], groups: int | None) -> list[tuple[str, ...]]:
    """Cut layers, in the order they are in, into so many parts of about equal length; each alone for None."""
    layers = list(layers)
    count = len(layers) if groups is None else min(groups, len(layers))
    ends = [round(index * len(layers) / count) for index in range(count + 1)] if count else [0]
    return [tuple(layers[low:high]) for low, high in pairwise(ends)]
