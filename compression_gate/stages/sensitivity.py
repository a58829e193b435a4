"""`sensitivity`: what each layer of the reference bears, by method and strength, on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compression_gate.errors import ParamsError
from compression_gate.methods.base import Context
from compression_gate.methods.sensitivity import EXAMPLES, STRENGTHS, columns_of, sensitivity_of
from compression_gate.modules.checkpoints import load_reference
from compression_gate.records.artifact import Artifact
from compression_gate.records.params import read_params
from compression_gate.records.sensitivity import SensitivityTable
from compression_gate.tasks.task import open_task

RECORD = Path("reports/sensitivity.json")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which methods, all that have usual strengths if none is named, and on how many validation examples."""

    methods: Sequence[str] = ()
    examples: int = EXAMPLES


def run(suite: Path, request: Request) -> SensitivityTable:
    """Write `reports/sensitivity.json`; what was measured of these very weights before is taken from there.

    Raises:
        ParamsError: the params are wrong, or a method has no usual strengths.
        MetricsError: there is no reference yet.
    """
    if request.examples < 1:
        raise ParamsError(f"--examples: expected 1 or more, got {request.examples}")
    params = read_params(suite)
    columns = columns_of(request.methods or STRENGTHS)
    task = open_task(params, suite)
    artifact = Artifact.open(suite / "models/reference")
    model = load_reference(task, suite / "models/reference", normalize=artifact.normalize)
    context = Context(task=task, reference=model, train=params.train)
    table = sensitivity_of(model, context, columns, request.examples)
    table = table.model_copy(update={"artifact_digest": artifact.digest})
    table.write(suite / RECORD)
    return table
