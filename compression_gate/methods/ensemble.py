"""Ensembles: several recipes, each applied to the model, fused into one that averages, or distilled into one."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import ValidationError
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.measurers.cost import weights_of
from compression_gate.methods import chain
from compression_gate.methods.base import Context, Effect, Method, Notes
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.options import not_one_of, refuse
from compression_gate.methods.renorming import renormed
from compression_gate.methods.teachers import beside, note_layers, note_training
from compression_gate.modules.finished_steps import FinishedParts
from compression_gate.modules.fused import Average, Fused
from compression_gate.modules.surgery import state_digest
from compression_gate.records.base import Record, digest_of, finite
from compression_gate.records.metrics import CurvePoint
from compression_gate.records.params import Step
from compression_gate.tasks.task import Task
from compression_gate.tasks.training import Epoch

log = logging.getLogger("compression_gate")
Mode = Literal["fused", "distilled"]
Student = Literal["first", "smallest"]
MOST_MEMBERS = 16
LOSSES = ("loss", "validation_loss")


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Apply each member's recipe to the model as it is here, the reference where this is the first step.

    Member ``i`` is trained under ``train.seed + i``, so that equal recipes that train give different members. Members
    that come out equal are refused: averaging them would change nothing.

    Fused, the result is one model that calls all members and averages. It holds and computes as much as all of them
    together, which the step's record shows: what it can gain is accuracy, and only members that are small by
    themselves keep it smaller than the reference. Distilled, it is one member, taught by the average of all.

    Args:
        members: a list of steps for each.
        mode: ``fused`` or ``distilled``.
        average: ``logits`` or ``probabilities``, see ``modules.fused``; the latter needs classes.
        student: who is taught: the ``first`` member, or the ``smallest`` by parameters.
        distillation: options of the step ``distillation`` but ``teacher`` and ``student``.

    Source: L. K. Hansen and P. Salamon, Neural Network Ensembles, IEEE PAMI 12, 1990; distilled: G. Hinton,
        O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015, §2.
    """

    effect: ClassVar[Effect] = "changed_weights"
    members: tuple[tuple[dict[str, Any], ...], ...]
    mode: Mode = "fused"
    average: Average = "logits"
    student: Student = "first"
    distillation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        refuse(
            not_one_of("mode", self.mode, get_args(Mode)),
            not_one_of("average", self.average, get_args(Average)),
            not_one_of("student", self.student, get_args(Student)),
            f"members: expected 2 to {MOST_MEMBERS} lists of steps, got {len(self.members)}"
            if not 2 <= len(self.members) <= MOST_MEMBERS
            else None,
            *self.distillation_problems(),
            *self.member_problems(),
        )

    def distillation_problems(self) -> list[str]:
        """Say what is wrong with the options of the distillation."""
        if self.mode == "fused" and self.distillation:
            return [f"distillation: is for mode distilled, got {self.distillation!r} with mode fused"]
        if taken := [name for name in ("teacher", "student") if name in (self.distillation or {})]:
            return [f"distillation.{taken[0]}: the members are teacher and student here: leave it out"]
        try:
            lesson = self.lesson
        except ParamsError as error:
            return [f"distillation.{problem}" for problem in error.problems]
        if lesson.inside:
            return [f"distillation.kind: looks inside one teacher, there are several here, got {lesson.kind!r}"]
        return []

    def member_problems(self) -> list[str]:
        """Say what is wrong with the members' steps, and with teaching one that cannot be trained any more."""
        problems: list[str] = []
        for index in range(len(self.members)):
            try:
                steps = self.methods_of(index)
            except ParamsError as error:
                problems += error.problems
                continue
            if self.mode == "distilled" and (index == 0 or self.student == "smallest"):
                problems += chain.order_problems([*steps, Distillation()], f"members.{index}")
        if not problems and self.mode == "distilled" and self.student == "smallest" and self.rebuilds:
            problems.append("student: the smallest of members of several architectures is not known before: name first")
        return problems

    def methods_of(self, index: int) -> list[Method]:
        """Build a member's steps.

        Raises:
            ParamsError: every problem of them, each with its place.
        """
        where = f"members.{index}"
        steps = []
        for number, values in enumerate(self.members[index]):
            try:
                steps.append(Step.model_validate(values))
            except ValidationError as error:
                raise ParamsError(f"{where}.{number}.method: expected a method's name, got {values!r}") from error
        return chain.built(steps, where)

    @cached_property
    def lesson(self) -> Distillation:
        """The distillation into one member."""
        method = chain.method_of(Step.model_validate({"method": "distillation", **(self.distillation or {})}))
        assert isinstance(method, Distillation)
        return method

    @cached_property
    def methods(self) -> tuple[tuple[Method, ...], ...]:
        """The methods of every member."""
        return tuple(tuple(self.methods_of(index)) for index in range(len(self.members)))

    @property
    def inner(self) -> tuple[Method, ...]:
        """Every method that is applied inside: what earlier steps did must bear all of them."""
        own = (self.lesson,) if self.mode == "distilled" else ()
        return (*(method for methods in self.methods for method in methods), *own)

    @property
    def remaining(self) -> tuple[Method, ...]:
        """The methods whose marks the result bears: what comes later must suit all of them."""
        if self.mode == "fused" or self.student == "smallest":
            return self.inner
        return (*self.methods[0], self.lesson)

    @property
    def rebuilds(self) -> bool:
        """Whether a member may be of another architecture than the model it came from."""
        steps = (method for methods in self.methods for method in methods)
        return any(isinstance(method, Ensemble) or getattr(method, "replaces", False) for method in steps)

    def factory(self, before: nn.Module, task: Task) -> nn.Module:
        """Return what ``structure.json`` is written against: all members' factories as one, or the student's."""
        if self.mode == "distilled":
            return chain.factory_of(self.methods[0], before, task)
        # Copies: where no step has a factory all members would else be one and the same module.
        members = (copy.deepcopy(chain.factory_of(methods, before, task)) for methods in self.methods)
        return Fused(members, self.average).eval()

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the fused model, or the one that all taught."""
        kind = context.task.params.kind
        if self.average == "probabilities" and kind != "classification":
            raise CompressionError(f"ensemble: average probabilities needs classes, task.kind is {kind}: take logits")
        contexts = [self.member_context(context, index) for index in range(len(self.members))]
        finished = None if context.checkpoint is None else finished_beside(context.checkpoint)
        members = [self.kept_member(index, model, own, finished) for index, own in enumerate(contexts)]
        check_different(members)
        sizes = [sum(weight.numel() for weight in weights_of(member)) for member in members]
        context.notes.remarks.append(
            f"parameters of the members: {', '.join(f'{size:,}' for size in sizes)}; together {sum(sizes):,}"
        )
        for index, own in enumerate(contexts):
            note_training(context.notes, f"members.{index}", own.notes)
        fused = Fused(members, self.average).eval()
        if self.mode == "fused":
            for index, own in enumerate(contexts):
                note_layers(context.notes, f"members.{index}.", own.notes)
            if finished is not None:
                finished.clear()
            return fused
        place = 0 if self.student == "first" else sizes.index(min(sizes))
        context.notes.remarks.append(f"the student is member {place}")
        context.notes.uncovered.update(contexts[place].notes.uncovered)
        student = self.lesson.apply(members[place], dataclasses.replace(context, reference=fused))
        if finished is not None:
            finished.clear()
        return student

    def member_context(self, context: Context, index: int) -> Context:
        """Return what a member's steps work with: a seed, notes and a checkpoint of their own."""
        train = context.train.model_copy(update={"seed": context.train.seed + index})
        return dataclasses.replace(
            context, train=train, notes=Notes(), checkpoint=beside(context.checkpoint, f"member-{index}")
        )

    def kept_member(
        self, index: int, model: nn.Module, context: Context, finished: FinishedParts[MemberNotes] | None
    ) -> nn.Module:
        """Return a finished member, or make it and keep it until all are done."""
        if finished is None:
            return self.member(index, model, context)
        factory = chain.factory_of(self.methods[index], model, context.task)
        key = member_key(context, model, self.methods[index])
        if (done := finished.read(key, factory)) is not None:
            log.info("ensemble: member %d was finished before", index)
            member, notes = done
            notes.take_back(context.notes)
            return member
        member = self.member(index, model, context)
        finished.write(key, member, factory, MemberNotes.of(context.notes))
        return member

    def member(self, index: int, model: nn.Module, context: Context) -> nn.Module:
        """Apply a member's steps; each trains under the member's seed and continues from a checkpoint of its own."""
        current = copy.deepcopy(model)
        for number, method in enumerate(self.methods[index]):
            log.info("ensemble: member %d, step %d: %s", index, number, chain.name_of(method))
            own = dataclasses.replace(context, checkpoint=beside(context.checkpoint, str(number)))
            before, current = current, method.apply(current, own).eval()
            renormed(current, before, context.task, context.train.seed)
        return current


class MemberNotes(Record):
    """What a finished member had noted."""

    covered: tuple[str, ...]
    uncovered: dict[str, str]
    remarks: tuple[str, ...]
    curves: dict[str, tuple[CurvePoint, ...]]

    @classmethod
    def of(cls, notes: Notes) -> MemberNotes:
        """Write notes down; figures of a curve that are not finite are none."""
        curves = {label: tuple(point_of(row) for row in curve) for label, curve in notes.curves.items()}
        return cls(covered=tuple(notes.covered), uncovered=notes.uncovered, remarks=tuple(notes.remarks), curves=curves)

    def take_back(self, notes: Notes) -> None:
        """Note it all again."""
        notes.covered.extend(self.covered)
        notes.uncovered.update(self.uncovered)
        notes.remarks.extend(self.remarks)
        for label, curve in self.curves.items():
            notes.add_curve(label, [epoch_of(point) for point in curve])


def point_of(row: Epoch) -> CurvePoint:
    """Return a row of a curve as files hold it: what is not finite has no figure."""
    losses = {name: finite(getattr(row, name)) for name in LOSSES}
    return CurvePoint.model_validate({**dataclasses.asdict(row), **losses})


def epoch_of(point: CurvePoint) -> Epoch:
    """Return a row of a curve as training gave it."""
    losses = {name: math.nan if (loss := getattr(point, name)) is None else loss for name in LOSSES}
    return Epoch(**{**point.model_dump(), **losses})


def finished_beside(checkpoint: Path) -> FinishedParts[MemberNotes]:
    """Return where finished members wait for the others."""
    return FinishedParts(checkpoint.with_name(f"{checkpoint.stem}-members"), MemberNotes, "ensemble: a member")


def member_key(context: Context, model: nn.Module, methods: Sequence[Method]) -> str:
    """Return a digest of all that a member follows from."""
    recipe = chain.recipe_of(methods).digest
    parts = [recipe, state_digest(model), state_digest(context.reference), context.train.model_dump(mode="json")]
    return digest_of(parts)[:16]


def check_different(members: Sequence[nn.Module]) -> None:
    """Refuse members that are one and the same model: their average is that model.

    Raises:
        CompressionError: two are equal; both are named.
    """
    seen: dict[str, int] = {}
    for index, member in enumerate(members):
        digest = state_digest(member)
        if digest in seen:
            raise CompressionError(
                f"ensemble: members {seen[digest]} and {index} came out equal: averaging them changes nothing: "
                "give them other steps or options, or a step that trains, which each does under a seed of its own"
            )
        seen[digest] = index
