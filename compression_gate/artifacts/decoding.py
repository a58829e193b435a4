"""From the coded file that ships to the runtime's file that can be run: always in a process nobody has used.

What is evaluated and timed is therefore what anybody gets who has the file and the task's code, and nothing that was
left in memory. Run as ``python -m compression_gate.artifacts.decoding request``; the answer is one line of JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compression_gate import __version__
from compression_gate.artifacts.exporting import CODED_FILE, runtime_of
from compression_gate.errors import CodecError
from compression_gate.measurers.workers import answer_of, answer_or_say_why, run_worker
from compression_gate.methods.base import Method
from compression_gate.methods.chain import built, factory_of, recipe_of, steps_of
from compression_gate.pipeline.state import source_digests
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import digest_of, replacing_folder
from compression_gate.records.metrics import CompressionRecord
from compression_gate.records.params import Params, Step, read_params
from compression_gate.runtimes.agreement import export
from compression_gate.tasks.task import Task, open_task

if TYPE_CHECKING:
    from torch import nn

DECODED = Path(".compression_gate/decoded")
WORKER = "compression_gate.artifacts.decoding"
PATIENCE_S = 600.0
SEGMENT_S = 10.0  # for each segment beside: a tenth of the small profile's speed, on a busy machine


def decoded(suite: Path, artifact: Artifact, folder: Path, params: Params) -> Path:
    """Return the runtime's file of a coded artifact, made from nothing but that; made once for each file.

    Raises:
        MeasurementError: the process that decodes ended with an error; its last words are in it.
    """
    name = runtime_of(params).file_name
    # The file holds no code: what the factory's modules compute is part of what comes out of it.
    code = source_digests(suite, params)
    rests_on = [artifact.recipe_digest, params.compress.runtime, params.digest_of_task, code, __version__]
    place = suite / DECODED / digest_of([artifact.files[CODED_FILE].sha256, *rests_on])[:16]
    if not (place / name).exists():
        shutil.rmtree(suite / DECODED, ignore_errors=True)  # of earlier candidates: none of them is asked for again
        steps = steps_taken(suite, params)
        with replacing_folder(place) as whole:
            decode_afresh(suite, folder / CODED_FILE, artifact.normalize, steps, params, whole / name)
    return place / name


def steps_taken(suite: Path, params: Params) -> list[Method]:
    """The steps of the candidate: as written, or those that were chosen for the target."""
    if params.compress.target is None:
        return steps_of(params, suite)
    record = CompressionRecord.read(suite / "reports/compression.json")
    steps = [Step.model_validate({"method": step.method, **step.options}) for step in record.steps]
    return built(steps, "reports/compression.json: steps")


def decode_afresh(
    suite: Path, file: Path, normalize: bool, steps: Sequence[Method], params: Params, exported: Path | None
) -> float:
    """Decode a file in a process of its own; return the seconds that decoding took there.

    Args:
        normalize: whether the reference takes its input normalised.
        exported: where the runtime's file is to be written; None to decode only.

    Raises:
        MeasurementError: the process ended with an error, its last words are in it; or answered something else.
    """
    recipe = recipe_of(steps)
    request = {
        "suite": str(suite.resolve()),
        "file": str(file.resolve()),
        "normalize": normalize,
        "steps": [step.model_dump(mode="json") for step in recipe.steps],
        "exported": None if exported is None else str(exported.resolve()),
    }
    what = f"decode {file}"
    answer = run_worker(WORKER, request, threads=params.benchmark.threads, timeout_s=patience_of(file), what=what)
    return float(answer_of(answer, what)["decode_s"])


def patience_of(file: Path) -> float:
    """How long decoding a file may take [s], by how many numbers it has."""
    from compression_gate.codec.container import opened, read_head

    try:
        with opened(file) as (stream, name):
            return PATIENCE_S + SEGMENT_S * len(read_head(stream, name).segments)
    except CodecError:  # told by the process that decodes
        return PATIENCE_S


def factory_model(task: Task, steps: Sequence[Method], *, normalize: bool) -> nn.Module:
    """The model that a coded file of these steps is relative to."""
    from compression_gate.modules.checkpoints import build_reference

    return factory_of(steps, build_reference(task, normalize=normalize), task)


def main(path: Path) -> None:
    """Read the request, decode, export if asked to, print."""
    request: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    suite, file = Path(request["suite"]), Path(request["file"])
    params = read_params(suite)
    task = open_task(params, suite)
    steps = built([Step.model_validate(step) for step in request["steps"]], "the steps of the coded model")
    factory = factory_model(task, steps, normalize=request["normalize"])
    start = time.perf_counter()
    from compression_gate.codec.coded_model import decode_model  # loading the decoder is part of decoding

    model = decode_model(factory, file)
    seconds = time.perf_counter() - start
    if request["exported"] is not None:
        export(runtime_of(params), model, task.example_inputs(2), Path(request["exported"]), params.task.dynamic)
    sys.stdout.write(f"{json.dumps({'decode_s': seconds})}\n")


if __name__ == "__main__":
    answer_or_say_why(main)
