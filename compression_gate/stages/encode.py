"""``encode``: a model, a graph or a file of tensors becomes a coded file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compression_gate.artifacts.decoding import factory_model, steps_taken
from compression_gate.artifacts.exporting import runtime_of
from compression_gate.codec.coded_graph import encode_graph
from compression_gate.codec.coded_model import encode_model
from compression_gate.codec.coded_tensors import encode_tensors
from compression_gate.errors import CodecError
from compression_gate.modules.checkpoints import build_reference, load_reference
from compression_gate.modules.saved_model import WEIGHTS_FILE, load_model
from compression_gate.modules.structure import STRUCTURE_FILE
from compression_gate.records.artifact import Artifact
from compression_gate.records.base import refuse_folder
from compression_gate.records.params import read_params
from compression_gate.stages.coded_outputs import place_of
from compression_gate.tasks.task import open_task

CANDIDATE = Path("models/candidate")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to encode, and how.

    Args:
        source: a .safetensors or .onnx file, or a model's folder; the suite's candidate if None.
        output: the file to write; beside the source, ending in .cgz, if None, where there is none yet.
        embed_graph: of a model's folder, the exported graph instead of what differs from the task's factory.
        workers: threads.
    """

    source: Path | None = None
    output: Path | None = None
    fast: bool = False
    embed_graph: bool = False
    workers: int = 1


def run(suite: Path, request: Request) -> Path:
    """Write the coded file and return where it is.

    Raises:
        CodecError: the source is of no kind that can be coded, or damaged.
        ParamsError: the file would be written over something that must not be, or that nobody named.
    """
    source = request.source or suite / CANDIDATE
    refuse_folder(request.output)
    if source.is_dir():
        return of_folder(suite, source, request)
    encode = {".onnx": encode_graph, ".safetensors": encode_tensors}.get(source.suffix)
    if encode is None:
        raise CodecError(
            f"{source}: expected a .safetensors or .onnx file, or the folder of a model: nothing else is read, since "
            "reading a pickle runs what is in it"
        )
    output = place_of(request.output, source.with_suffix(".cgz"), source)
    encode(source, output, fast=request.fast, workers=request.workers)
    return output


def of_folder(suite: Path, folder: Path, request: Request) -> Path:
    """Encode a model that a suite's stages wrote."""
    params = read_params(suite)
    if request.embed_graph:
        graph = folder / runtime_of(params).file_name
        if graph.suffix != ".onnx":
            raise CodecError(f"{graph}: --embed-graph: expected an ONNX graph: write `runtime: onnxruntime`")
        output = place_of(request.output, beside(folder), graph)
        encode_graph(graph, output, fast=request.fast, workers=request.workers)
        return output
    output = place_of(request.output, beside(folder), folder / WEIGHTS_FILE)
    task, normalize = open_task(params, suite), Artifact.open(folder).normalize
    if (folder / STRUCTURE_FILE).exists():
        factory = factory_model(task, steps_taken(suite, params), normalize=normalize)
        model = load_model(factory, folder)
    else:  # a reference is what the factory builds
        factory, model = build_reference(task, normalize=normalize), load_reference(task, folder, normalize=normalize)
    encode_model(model, factory, output, fast=request.fast, workers=request.workers)
    return output


def beside(folder: Path) -> Path:
    """The coded file that is named after a model's folder."""
    return folder.with_name(f"{folder.absolute().name}.cgz")
