"""A model becomes an artifact: exported, counted, listed, digested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from compression_gate import registry
from compression_gate.measurers.cost import costs_of
from compression_gate.records.artifact import FILE_NAME, Artifact, Role, digest_of_files, entries
from compression_gate.records.params import Params
from compression_gate.runtimes import RUNTIMES
from compression_gate.tasks.task import Task

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
    inputs = task.example_inputs(2)
    runtime.export(model, inputs, folder / runtime.file_name, params.task.dynamic)
    cost = costs_of(model, task.example_inputs(1))
    files = entries(folder)
    artifact = Artifact(
        role=role,
        format=params.compress.format,
        runtime=params.compress.runtime,
        files=files,
        shipped=tuple(name for name in files if name not in NOT_SHIPPED),
        digest=digest_of_files(files),
        parameters=cost.parameters,
        nonzeros=cost.nonzeros,
        macs=cost.macs,
        normalize=params.train.normalize,
        recipe_digest=recipe_digest,
        parent_digest=parent_digest,
    )
    artifact.write(folder / FILE_NAME)
    return artifact
