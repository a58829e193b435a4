"""What a compression method is: an options record with one verb, and what it may rely on while it works."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import nn

from compression_gate.records.params import TrainParams
from compression_gate.tasks.task import Task

Effect = Literal["fewer_parameters", "fewer_nonzeros", "fewer_values", "integer_weights", "changed_weights"]


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What a method says about the layers it met: names it treated, and those it left, each with its reason."""

    covered: list[str] = field(default_factory=list)
    uncovered: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method may use beside the model.

    Args:
        task: the user's data, loss and model factory. Methods read ``train``, ``calibration`` and, to select,
            ``validation``; never ``test``.
        reference: the uncompressed model of this run, in eval mode; the teacher unless another is named. Read only.
        train: how the reference was trained, for methods that train.
        notes: where the method says what it covered.
        checkpoint: a file a method that trains may continue from after a kill.
    """

    task: Task
    reference: nn.Module
    train: TrainParams
    notes: Notes = field(default_factory=Notes)
    checkpoint: Path | None = None


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass of options, checked in ``__post_init__`` (``ParamsError`` that names the option).

    ``effect`` is what the method claims to change; the compress stage measures whether it did, and a step without
    its effect fails the gate. ``apply`` returns a new module and leaves the one it was given as it was; what it
    cannot treat it names in ``context.notes.uncovered``; if nothing at all can be treated, ``CompressionError``.
    """

    effect: ClassVar[Effect]

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a compressed copy of ``model``."""
