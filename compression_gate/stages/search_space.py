"""The space of a search, opened: what the params declare, or what suits the model; and what is known of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gate.errors import MetricsError, ParamsError
from compression_gate.methods.ladder import facts_of
from compression_gate.records.artifact import Artifact
from compression_gate.records.document import Document
from compression_gate.records.params import FILE_NAME, Params
from compression_gate.records.rules import Rule
from compression_gate.records.sensitivity import SensitivityTable
from compression_gate.search.defaults import default_slots
from compression_gate.search.descriptors import Knowledge
from compression_gate.search.space import Space, Units, space_of

if TYPE_CHECKING:
    from torch import nn


def opened_space(suite: Path, params: Params) -> tuple[Space, Knowledge | None]:
    """The space, and what was measured of the layers, where some have strengths of their own.

    Raises:
        ParamsError: what is declared cannot be read.
        MetricsError: there is no reference to look at.
    """
    artifact, declared = reference_of(suite), params.search.space
    if declared is None:
        from compression_gate.modules.norms import norms_of

        model = opened_reference(suite, params, artifact)
        facts = facts_of(model, params.compress.runtime, params.compress.format)
        declared = tuple(default_slots(facts, params.compress.format, norms=bool(norms_of(model))))
    free_order = params.search.order == "free"
    with placed(suite):
        space, known = space_of(declared, free_order=free_order), None
    if methods := space.layered:
        table = measured_table(suite, methods)
        known = knowledge_of(suite, params, artifact, table)
        with placed(suite):
            space = space_of(declared, free_order=free_order, units=units_of(table, methods))
    return space, known


@contextmanager
def placed(suite: Path) -> Iterator[None]:
    """Tell the line of each problem, which begins with its key path."""
    try:
        yield
    except ParamsError as error:
        document = Document(suite / FILE_NAME, FILE_NAME)
        for problem in error.problems:
            path, _, text = problem.partition(": ")
            document.problem(tuple(path.split(".")), text)
        raise ParamsError(document.problems) from error


def reference_of(suite: Path) -> Artifact:
    """The reference on disk.

    Raises:
        MetricsError: there is none.
    """
    try:
        return Artifact.open(suite / "models/reference")
    except MetricsError as error:
        raise MetricsError(f"{error}: a search starts from a trained reference: `compression-gate run`") from error


def opened_reference(suite: Path, params: Params, artifact: Artifact) -> nn.Module:
    """The reference as a module."""
    from compression_gate.modules.checkpoints import load_reference
    from compression_gate.tasks.task import open_task

    return load_reference(open_task(params, suite), suite / "models/reference", normalize=artifact.normalize)


def measured_table(suite: Path, methods: Sequence[str]) -> SensitivityTable:
    """The table of sensitivities of these methods; what was measured before is not measured again."""
    from compression_gate.stages import sensitivity

    return sensitivity.run(suite, sensitivity.Request(methods=methods))


def units_of(table: SensitivityTable, methods: Sequence[str]) -> Units:
    """The layers that methods treat one by one, most sensitive first."""
    found = {}
    for method in methods:
        rows = table.of(method)
        worst = {layer: max(row.loss_rise or 0.0 for row in cells) for layer, cells in rows.items()}
        order = sorted(rows, key=lambda layer: -worst[layer])
        found[method] = {layer: rows[layer][0].members for layer in order}
    return Units(of=found)


def knowledge_of(suite: Path, params: Params, artifact: Artifact, table: SensitivityTable) -> Knowledge:
    """The table, the bytes that it counts, and what the rules allow of them."""
    from compression_gate.measurers.cost import stored_bytes

    stored = stored_bytes(opened_reference(suite, params, artifact))
    allowed = [limit for rule in params.gate.rules.values() if (limit := most_bytes(rule, artifact)) is not None]
    return Knowledge(table=table, stored_bytes=stored, most_bytes=min(allowed, default=None))


def most_bytes(rule: Rule, artifact: Artifact) -> float | None:
    """The bytes that a blocking rule on size lets through; None for other rules."""
    if rule.level != "block":
        return None
    if rule.metric == "size_bytes" and rule.max is not None:
        return rule.max.value
    if rule.metric == "compression_ratio" and rule.min is not None and rule.min.value > 0:
        return artifact.state_bytes / rule.min.value
    return None
