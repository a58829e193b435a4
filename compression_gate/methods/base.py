"""What a compression method is: an options record with one verb, and what it may rely on while it works."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import nn

from compression_gate.methods.options import inside
from compression_gate.records.params import TrainParams
from compression_gate.records.sensitivity import SensitivityTable
from compression_gate.tasks.task import Task
from compression_gate.tasks.training import Epoch

Effect = Literal["fewer_parameters", "fewer_nonzeros", "fewer_values", "integer_weights", "changed_weights"]


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What a method says about its work: layers it treated, those it left with the reason, and how training went.

    ``sensitivity`` are the tables by which a budget was spread; ``remarks`` are sentences on anything else a user
    would want to know of it.

    A method that trains notes every curve, which then stands in the step's record and in the report::

        context.notes.add_curve("fine-tuning", fit(model, context.task, fitting))
    """

    covered: list[str] = field(default_factory=list)
    uncovered: dict[str, str] = field(default_factory=dict)
    curves: dict[str, tuple[Epoch, ...]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    sensitivity: list[SensitivityTable] = field(default_factory=list)

    def add_curve(self, label: str, curve: Iterable[Epoch]) -> None:
        """Note what :func:`tasks.training.fit` returned; a label that is taken gets a number, an empty curve none."""
        names = (label if number == 1 else f"{label} {number}" for number in count(1))
        if points := tuple(curve):
            self.curves[next(name for name in names if name not in self.curves)] = points

    def remark_frozen(self, model: nn.Module) -> None:
        """Say which of the covered weights cannot be trained; for methods that train what they changed."""
        frozen = [
            name
            for name, weight in model.named_parameters()
            if not weight.requires_grad and "bias" not in name.rpartition(".")[2]
        ]
        if named := [one for one in self.covered if any(inside(name, (one,)) for name in frozen)]:
            self.remarks.append(
                f"frozen, so changed by this step but not trained: {', '.join(named)}: "
                "unfreeze them, or name their layers in `ignore`"
            )


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a method may use beside the model.

    Args:
        task: the user's data, loss and model factory. Methods read ``train``, ``calibration`` and, to select,
            ``validation``; never ``test``.
        reference: the uncompressed model of this run, in eval mode; the teacher unless another is named. Read only.
        train: how the reference was trained, for methods that train.
        notes: where the method says what it covered, and how what it trained went.
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

    A method that returns another architecture than it was given also has ``factory(before, task)``: the model, with
    whatever weights, that ``structure.json`` is written against from then on; :func:`methods.chain.factory_of` asks it.
    """

    effect: ClassVar[Effect]

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a compressed copy of ``model``."""
