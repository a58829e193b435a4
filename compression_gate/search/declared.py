"""The slots of `params.yaml: search.space` as they are written, as far as nothing need be known of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from compression_gate import registry
from compression_gate.errors import ParamsError, UnknownPluginError
from compression_gate.methods import METHODS
from compression_gate.registry import unknown
from compression_gate.search.genes import ByLayer, Gene, any_by_layer, genes_in

WHERE = "search.space"
SLOT_KEYS = {"any_of", "optional"}
MODEL_KEYS = ("model", "model_args", "weights")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Written:
    """A step as a slot declares it.

    Args:
        where: its key path.
    """

    where: str
    method: str
    options: Mapping[str, Any]
    genes: Mapping[str, Gene | ByLayer]


@dataclass(frozen=True, kw_only=True)
class WrittenSlot:
    """A slot as it is declared."""

    steps: tuple[Written, ...]
    optional: bool


def all_of(parts: Iterable[Callable[[], T]]) -> list[T]:
    """What each part comes to.

    Raises:
        ParamsError: the problems of all that cannot be read.
    """
    found: list[T] = []
    problems: list[str] = []
    for part in parts:
        try:
            found.append(part())
        except ParamsError as error:
            problems += error.problems
    if problems:
        raise ParamsError(problems)
    return found


def written_slot(declaration: Mapping[str, Any], where: str) -> WrittenSlot:
    """Read one slot as far as nothing need be known of the model: a step with open options, or ``any_of`` several."""
    optional = declaration.get("optional", False)
    if not isinstance(optional, bool):
        raise ParamsError(f"{where}.optional: expected true or false, got {optional!r}")
    if "any_of" not in declaration:
        alone = {key: value for key, value in declaration.items() if key != "optional"}
        return WrittenSlot(steps=(written_step(alone, where),), optional=optional)
    if others := set(declaration) - SLOT_KEYS:
        raise ParamsError(f"{where}: expected any_of and optional, got {', '.join(sorted(map(str, others)))} too")
    steps = declaration["any_of"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, Mapping) for step in steps):
        raise ParamsError(f"{where}.any_of: expected a list of steps, got {steps!r}")
    read = all_of(partial(written_step, step, f"{where}.any_of.{index}") for index, step in enumerate(steps))
    return WrittenSlot(steps=tuple(read), optional=optional)


def written_step(step: Mapping[str, Any], where: str) -> Written:
    """Read one step with open options."""
    if "model" in step and step.keys().isdisjoint(("method", "student")):
        step = taught(step)
    method = step.get("method")
    if not isinstance(method, str):
        raise ParamsError(f"{where}: expected the name of a method under method, got {method!r}")
    try:
        registry.find("methods", method, METHODS)
    except UnknownPluginError as error:
        raise ParamsError(f"{where}.method: {unknown(method, list(METHODS))}") from error
    options = {str(key): value for key, value in step.items() if key != "method"}
    found = Written(where=where, method=method, options=options, genes=dict(genes_in(options, where)))
    if len({gene.groups for gene in found.genes.values() if isinstance(gene, ByLayer)}) > 1:
        raise ParamsError(f"{where}: expected one grouping of layers for all options of a step, got several")
    if any_by_layer(found.genes) and "ignore" in options:
        raise ParamsError(f"{where}.ignore: expected none beside strengths by layer, got {options['ignore']!r}")
    return found


def taught(step: Mapping[str, Any]) -> dict[str, Any]:
    """The distillation that a choice among models is short for: the other keys are options of it."""
    student = {key: step[key] for key in MODEL_KEYS if key in step}
    return {"method": "distillation", "student": student} | {key: step[key] for key in step if key not in MODEL_KEYS}
