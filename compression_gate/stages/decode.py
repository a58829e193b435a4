"""``decode``: a coded file becomes what it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compression_gate.artifacts.decoding import factory_model, steps_taken
from compression_gate.codec.coded_graph import decode_graph
from compression_gate.codec.coded_model import decode_model
from compression_gate.codec.coded_tensors import decode_tensors
from compression_gate.codec.container import Head, opened, read_head, writable
from compression_gate.modules.saved_model import save_model
from compression_gate.records.base import refuse_folder, replacing
from compression_gate.records.params import read_params
from compression_gate.stages.coded_outputs import place_of
from compression_gate.tasks.task import open_task

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to decode.

    Args:
        output: the .onnx or .safetensors file to write, or of a model the folder; named after ``file`` if None, where
            there is none yet.
        workers: threads.
    """

    file: Path
    output: Path | None = None
    workers: int = 1


def run(suite: Path, request: Request) -> Path:
    """Write what a coded file was made from and return where it is.

    Raises:
        CodecError: the file is damaged, hostile or of another model.
        ParamsError: something would be written over that must not be, or that nobody named.
    """
    head = head_of(request.file)
    ending = ".onnx" if head.graph is not None else ".safetensors" if head.directory is not None else ""
    if ending:
        refuse_folder(request.output)
    output = place_of(request.output, request.file.with_suffix(ending), request.file)
    if head.graph is not None:
        graph = decode_graph(request.file, workers=request.workers)
        with writable(output), replacing(output) as temporary:
            temporary.write_bytes(graph)
    elif head.directory is not None:
        decode_tensors(request.file, output, workers=request.workers)
    else:
        factory = factory_of_suite(suite)
        model = decode_model(factory, request.file, workers=request.workers)
        with writable(output):
            save_model(model, factory, output)
    return output


def head_of(file: Path) -> Head:
    """What a file says of itself."""
    with opened(file) as (stream, name):
        return read_head(stream, name)


def factory_of_suite(suite: Path) -> nn.Module:
    """The model that a suite's coded file is relative to."""
    params = read_params(suite)
    return factory_model(open_task(params, suite), steps_taken(suite, params), normalize=params.train.normalize)
