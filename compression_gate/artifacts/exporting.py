"""A model becomes an artifact: exported, counted, listed, digested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from compression_gate import registry
from compression_gate.measurers.cost import costs_of
from compression_gate.records.artifact import FILE_NAME, Artifact, Role, entries
from compression_gate.records.params import Params
from compression_gate.records.provenance import params_digests
from compression_gate.runtimes import RUNTIMES
from compression_gate.runtimes.agreement import export
from compression_gate.tasks.task import Task

CODED, CODED_FILE = "coded", "model.cgz"
NOT_SHIPPED = ("model.safetensors", "structure.json")


def runtime_of(params: Params) -> Any:
    """Load the runtime the params name."""
    return registry.load("runtimes", params.compress.runtime, RUNTIMES)()


def exported_artifact(
    model: nn.Module,
    task: Task,
    params: Params,
    folder: Path,
    *,
    role: Role,
    recipe_digest: str | None = None,
    parent_digest: str | None = None,
) -> Artifact:
    """Export ``model`` into ``folder``, which holds its weights already, and write `artifact.json` over all files."""
    runtime = runtime_of(params)
    export(runtime, model, task.example_inputs(2), folder / runtime.file_name, params.task.dynamic)
    return listed_artifact(
        model, task, params, folder, role=role, recipe_digest=recipe_digest, parent_digest=parent_digest
    )


def listed_artifact(
    model: nn.Module,
    task: Task,
    params: Params,
    folder: Path,
    *,
    role: Role,
    recipe_digest: str | None = None,
    parent_digest: str | None = None,
) -> Artifact:
    """Write `artifact.json` over all files of a folder: a coded file ships alone, where there is one."""
    cost = costs_of(model, task.example_inputs(1))
    files = entries(folder)
    artifact = Artifact(
        role=role,
        format=CODED if CODED_FILE in files else Path(runtime_of(params).file_name).suffix.removeprefix("."),
        runtime=params.compress.runtime,
        files=files,
        shipped=(CODED_FILE,) if CODED_FILE in files else tuple(name for name in files if name not in NOT_SHIPPED),
        digest="",
        parameters=cost.parameters,
        nonzeros=cost.nonzeros,
        macs=cost.macs,
        normalize=params.train.normalize,
        recipe_digest=recipe_digest,
        parent_digest=parent_digest,
        params_digests=params_digests("train" if role == "reference" else "compress", params),
    ).sealed()
    artifact.write(folder / FILE_NAME)
    return artifact
