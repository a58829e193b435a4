"""What exporters need alike: example inputs, free axes, and silence about things that are no problem."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from compression_gate.errors import ExportError
from compression_gate.tasks.calling import Inputs, named

CHATTY = ("torch.onnx", "torch.export", "torch._export", "torch._dynamo", "onnxscript", "onnx_ir", "torch.fx")


def two_examples(inputs: Inputs) -> dict[str, Tensor]:
    """The inputs by name with at least two examples: tracing takes an axis of length 1 for a constant.

    As tensors of their own: of a part of another tensor the strides would get into the graph.
    """
    examples = {}
    for name, value in named(inputs).items():
        if value.dim() == 0:
            raise ExportError(f"input {name}: expected a batch axis first, got a scalar: return one value per example")
        examples[name] = value.contiguous() if value.shape[0] > 1 else torch.cat([value, value])
    return examples


def dynamic_shapes(examples: dict[str, Tensor], dynamic: dict[str, dict[int, str]]) -> tuple[dict[int, Any], ...]:
    """Free axes of each input for torch.export: the batch, and those of ``dynamic``.

    Raises:
        ExportError: ``dynamic`` speaks of an input or an axis that is not there.
    """
    if strange := dynamic.keys() - examples.keys():
        raise ExportError(
            f"task.dynamic: expected names of inputs ({', '.join(examples)}), got {', '.join(sorted(strange))}"
        )
    shapes = []
    for name, value in examples.items():
        axes = dynamic.get(name, {})
        if wrong := [axis for axis in axes if not 0 < axis < value.dim()]:
            raise ExportError(
                f"task.dynamic: {name}: expected axes 1 to {value.dim() - 1}, got {wrong[0]}: "
                "the batch axis 0 is always free"
            )
        shapes.append(dict.fromkeys((0, *axes), torch.export.Dim.DYNAMIC))
    return tuple(shapes)


@contextmanager
def recurrences_anew() -> Iterator[None]:
    """Trace LSTM and GRU as a fresh process would.

    torch's ONNX exporter takes them apart in a way of its own while it runs, so that time stays free, and what torch
    noted of a call in one way is there in the other (2.13, ``torch.export._patches``): all exports but the first fail.
    """
    forget_calls()
    try:
        yield
    finally:
        forget_calls()


def forget_calls() -> None:
    """Have torch look up anew what an LSTM and a GRU are made of."""
    for operator in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        operator._dispatch_cache.clear()


@contextmanager
def quietly() -> Iterator[None]:
    """Hold back the exporters' warnings and progress lines; errors are exceptions and still come through."""
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
