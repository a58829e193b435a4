"""How a model is called and what it answers: the one place that knows the forms inputs and outputs may take."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionGateError, TaskError

LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
FOREIGN = ("<", *(f"{root}{os.sep}" for root in (Path(__file__).parents[1], *LIBRARIES)))  # how names of files begin
Inputs: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def named(inputs: Inputs) -> dict[str, Tensor]:
    """Give every input tensor the name it has in an exported file: ``input``; ``input_0``, …; or the dict's own."""
    if isinstance(inputs, Tensor):
        return {"input": inputs}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return {f"input_{index}": value for index, value in enumerate(inputs)}


def form_of(inputs: Inputs) -> str:
    """Which of the three forms inputs have; with it :func:`formed` undoes :func:`named`."""
    return "tensor" if isinstance(inputs, Tensor) else "dict" if isinstance(inputs, Mapping) else "tuple"


def formed(tensors: dict[str, Tensor], form: str) -> Inputs:
    """Give named tensors, in their order, the form they had."""
    if form == "dict":
        return tensors
    return tuple(tensors.values()) if form == "tuple" else next(iter(tensors.values()))


def moved(inputs: Inputs, device: torch.device | str) -> Inputs:
    """Return the inputs on ``device``."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {name: value.to(device) for name, value in inputs.items()}
    return tuple(value.to(device) for value in inputs)


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """Call the model and return its output tensor ``(N, …)``.

    Raises:
        TaskError: the model does not take such inputs, or returned no tensor.
    """
    try:
        if isinstance(inputs, Tensor):
            outputs = model(inputs)
        elif isinstance(inputs, Mapping):
            outputs = model(**inputs)
        else:
            outputs = model(*inputs)
    except CompressionGateError:
        raise
    except Exception as error:  # a user's model may raise anything
        given = ", ".join(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in named(inputs).items())
        raise TaskError(
            f"task.model: forward() of {type(model).__name__} raised {type(error).__name__} for {given}: {error}"
            f"{line_of(error)}: mend the model, or what task.data and task.collate return"
        ) from error
    return output_of(outputs)


def line_of(error: BaseException) -> str:
    """Where a user's code raised, as `` (file:line)``: the innermost line that is neither ours nor a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(FOREIGN)]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def output_of(outputs: Any) -> Tensor:
    """Find the tensor in what a model returned: itself, the first of a tuple, or ``logits``.

    Raises:
        TaskError: nothing of the kind is there.
    """
    if isinstance(outputs, Mapping) and "logits" in outputs:
        outputs = outputs["logits"]
    elif hasattr(outputs, "logits"):
        outputs = outputs.logits
    elif isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    if not isinstance(outputs, Tensor):
        raise TaskError(
            f"task.model: expected a tensor, a tuple whose first item is one, or something with `logits`, "
            f"got {type(outputs).__name__}: return one of these from forward()"
        )
    return outputs


class Positional(nn.Module):
    """A model that takes its inputs by position and returns one tensor: the form exporters want."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(inputs) if isinstance(inputs, Mapping) else None

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the wrapped model in the form it knows."""
        if self.names is not None:
            return output_of(self.model(**dict(zip(self.names, inputs, strict=True))))
        return output_of(self.model(*inputs))
