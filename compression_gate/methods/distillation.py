"""Distillation: the compressed model learns from what a teacher answers, beside the labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.discriminator import Adversary
from compression_gate.methods.features import (
    Pairs,
    captured,
    distance,
    flat,
    layer_pairs,
    projected,
    projections,
    shaped,
)
from compression_gate.methods.named_models import built, module_of, named_model, problems_of
from compression_gate.methods.options import not_one_of, outside, refuse
from compression_gate.methods.teacher_answers import TeacherAnswers, answering
from compression_gate.methods.teachers import REFERENCE, open_teacher, remark_quality, teacher_problems
from compression_gate.modules.fused import Fused
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.normalized import Normalized, unnormalized_shell
from compression_gate.modules.surgery import state_digest
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import Batch, Task
from compression_gate.tasks.training import Fitting, StepLoss, batches_an_epoch, device_of, fit

Kind = Literal["soft", "hard", "feature", "adversarial"]
Place = Literal["outputs", "features"]
TeacherOption = str | dict[str, Any] | tuple[str | dict[str, Any], ...]
DISCRIMINATOR_LEARNING_RATE = 0.001
STUDENT_KEYS = ("model", "model_args", "weights")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Train the model on ``alpha`` parts of the teacher's answers and ``1 - alpha`` parts of the task's own loss.

    Weights that earlier steps set to zero stay zero. Regression and custom tasks have no classes: there, the teacher's
    part is the mean squared distance to its outputs. ``feature`` and ``adversarial`` add a third part.

    Args:
        kind: ``soft``: the teacher's probabilities at ``temperature``; ``hard``: the class it would choose;
            ``feature``: soft, and the distance of what layers inside give; ``adversarial``: soft, and how well a
            discriminator, trained beside, tells the student's answers from the teacher's.
        temperature: above 1 shows how the teacher ranks the wrong classes; 4 is what most of the literature takes. Of
            no effect with ``hard``, without classes, and at ``alpha`` 0.
        alpha: share of the teacher's answers in the loss, in [0, 1].
        epochs: of training; data, batch size, schedule and augmentation are those of ``train``.
        learning_rate: the highest of the schedule; the default is that of ``train``.
        teacher: ``reference``; or ``{model, model_args, weights}`` with a dotted path (``task.model`` if left out) and
            a file of its state dict; or ``{model, model_args, train}``, trained here with these changes to ``train``
            and kept; or a list of such, whose outputs are averaged.
        student: ``{model, model_args, weights}``: a model that takes the place of the given one.
        layers: for features: pairs ``[student's module, teacher's module]``; where empty, see ``layer_pairs``.
        strength: factor of the third part; 0.1 by default for adversarial, 1 for feature.
        on: where the discriminator looks: at the ``outputs``, or at the ``features`` of ``layers``.
        discriminator_learning_rate: of the discriminator; with ``adversarial`` alone.

    Source: G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015, §2: the soft part is
        multiplied by T², which keeps its gradients the size of those of the labels. Features: A. Romero et al.,
        FitNets, ICLR 2015, eq. 3, whose hints are a training of their own before; here all parts are one loss.
        Adversarial: see ``methods.discriminator``.
    """

    effect: ClassVar[Effect] = "changed_weights"
    kind: Kind = "soft"
    temperature: float = 4.0
    alpha: float = 0.7
    epochs: int = 2
    learning_rate: float | None = None
    teacher: TeacherOption = REFERENCE
    student: dict[str, Any] | None = None
    layers: Pairs = ()
    strength: float | None = None
    on: Place = "outputs"
    discriminator_learning_rate: float = DISCRIMINATOR_LEARNING_RATE

    def __post_init__(self) -> None:
        beside = self.kind in ("feature", "adversarial")
        several = isinstance(self.teacher, (list, tuple)) and len(self.teacher) > 1
        refuse(
            not_one_of("kind", self.kind, get_args(Kind)),
            outside("temperature", self.temperature, 0, open_="["),
            outside("alpha", self.alpha, 0, 1),
            outside("epochs", self.epochs, 1),
            outside("learning_rate", self.learning_rate, 0, open_="["),
            outside("strength", self.strength, 0, open_="["),
            outside("discriminator_learning_rate", self.discriminator_learning_rate, 0, open_="["),
            not_one_of("on", self.on, get_args(Place)),
            *teacher_problems(self.teacher),
            *(problems_of("student", self.student, STUDENT_KEYS) if self.student is not None else ()),
            "student.model: expected a dotted path like 'package.module:name', got none"
            if self.student is not None and "model" not in self.student
            else None,
            f"strength: is the factor of features or of the adversary: expected none with kind {self.kind}, "
            f"got {self.strength!r}"
            if self.strength is not None and not beside
            else None,
            f"discriminator_learning_rate: is the adversary's: expected kind adversarial, got {self.kind!r}"
            if self.discriminator_learning_rate != DISCRIMINATOR_LEARNING_RATE and self.kind != "adversarial"
            else None,
            f"on: is where the adversary looks: expected kind adversarial, got {self.kind!r}"
            if self.on == "features" and self.kind != "adversarial"
            else None,
            f"layers: are for features: expected kind feature, or adversarial on features, got kind {self.kind!r}"
            if self.layers and not self.inside
            else None,
            "teacher: expected one teacher whose layers can be compared, got several: use kind soft, hard, or "
            "adversarial on outputs"
            if self.inside and several
            else None,
        )

    @property
    def replaces(self) -> bool:
        """Whether the model that is given is put aside for another."""
        return self.student is not None

    @property
    def prunable(self) -> bool:
        """Whether exact zeros are somebody's pruning: those that a fresh student begins with are to be trained."""
        return self.student is None or self.student.get("weights", "from_model") != "from_model"

    @property
    def inside(self) -> bool:
        """Whether features are looked at."""
        return self.kind == "feature" or (self.kind == "adversarial" and self.on == "features")

    def factory(self, before: nn.Module, task: Task) -> nn.Module:
        """Return what ``structure.json`` is written against: the student's own factory, if one is named."""
        if self.student is None:
            return before
        model = module_of(named_model("student", self.student), task, task.seed).eval()
        return unnormalized_shell(model, len(before.mean)).eval() if isinstance(before, Normalized) else model

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a trained copy of ``model``, or the trained student."""
        classes = context.task.params.kind == "classification"
        if self.kind == "hard" and not classes:
            raise CompressionError(
                f"distillation: kind hard needs classes to choose from, task.kind is {context.task.params.kind}: "
                "use kind soft"
            )
        teacher = open_teacher(self.teacher, context)
        if self.teacher != REFERENCE:
            remark_quality(teacher, "teacher", context)
        student = self.start(model, context)
        key = f"{self} {state_digest(student)} {state_digest(teacher)}"
        lesson = Lesson.prepared(self, student, teacher, context)
        rate = self.learning_rate or context.train.learning_rate
        fitting = Fitting(
            options=context.train.model_copy(update={"epochs": self.epochs, "learning_rate": rate}),
            loss=lesson.loss(context, classes=classes),
            after_step=keeper(zeros_of(lesson.taught)) if self.prunable else None,
            checkpoint=context.checkpoint,
            label="distillation",
            key=key,
            companions=(lesson.adversary,) if lesson.adversary else (),
        )
        with captured(lesson.taught.student, [pair[0] for pair in lesson.pairs]) as lesson.taught.seen:
            curve = fit(lesson.taught, context.task, fitting)
        self.note(student, curve, lesson, context)
        return student

    def start(self, model: nn.Module, context: Context) -> nn.Module:
        """Return what is to be trained, answering in the shape of the reference.

        Raises:
            CompressionError: the student answers in another shape.
        """
        if self.student is None:
            return copy.deepcopy(model)
        named = named_model("student", self.student)
        student = built(named, context, context.train.seed)
        inputs = context.task.example_inputs(2)
        with torch.no_grad():
            expected, got = call(context.reference, inputs).shape, call(student, inputs).shape
        if expected != got:
            raise CompressionError(
                f"{named.title}: expected answers like the reference's, (N, {', '.join(map(str, expected[1:]))}), "
                f"got (N, {', '.join(map(str, got[1:]))}): mend student.model_args"
            )
        return student

    def note(self, student: nn.Module, curve: Any, lesson: Lesson, context: Context) -> None:
        """Say what was trained and how it went."""
        notes = context.notes
        notes.add_curve("distillation", curve)
        if lesson.adversary:
            notes.add_curve("discriminator", lesson.adversary.curve(batches_an_epoch(context.task, context.train)))
        if lesson.pairs:
            notes.remarks.append(
                f"layers compared, student's and teacher's: {', '.join(map(' and '.join, lesson.pairs))}"
            )
        notes.covered.extend(name for name, weight in student.named_parameters() if weight.requires_grad)
        notes.uncovered.update(
            {name: "frozen" for name, weight in student.named_parameters() if not weight.requires_grad}
        )

    def combined(self, outputs: Tensor, answers: Tensor, batch: Batch, context: Context, *, classes: bool) -> Tensor:
        """Return the loss on outputs: the teacher's part and the task's."""
        if answers.shape != outputs.shape:
            raise CompressionError(
                f"distillation: expected the teacher's outputs to be like the model's {tuple(outputs.shape)}, "
                f"got {tuple(answers.shape)}"
            )
        taught = self.taught(outputs, answers, classes=classes) if self.alpha > 0 else outputs.new_zeros(())
        if self.alpha == 1:
            return taught
        return self.alpha * taught + (1 - self.alpha) * context.task.loss(outputs, batch.targets)

    def taught(self, outputs: Tensor, answers: Tensor, *, classes: bool) -> Tensor:
        """Return the teacher's part of the loss.

        Args:
            outputs, answers: logits ``(N, C, …)`` where there are classes, else any one shape.
        """
        if not classes:
            return functional.mse_loss(outputs, answers)
        if self.kind == "hard":
            return functional.cross_entropy(outputs, answers.argmax(1))
        wanted = functional.log_softmax(answers / self.temperature, 1)
        got = functional.log_softmax(outputs / self.temperature, 1)
        return (wanted.exp() * (wanted - got)).sum(1).mean() * self.temperature**2


class Taught(nn.Module):
    """The student with what is trained beside it and thrown away afterwards: the projections of its features.

    ``seen`` holds the features of the last call.
    """

    def __init__(self, student: nn.Module, beside: nn.ModuleList) -> None:
        super().__init__()
        self.student = student
        self.beside = beside
        self.seen: dict[str, Tensor] = {}

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Call the student."""
        return self.student(*inputs, **named)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One student, one teacher, and what stands between them."""

    options: Distillation
    taught: Taught
    answers: Callable[[Batch], TeacherAnswers]
    pairs: Pairs
    adversary: Adversary | None

    @classmethod
    def prepared(cls, options: Distillation, student: nn.Module, teacher: nn.Module, context: Context) -> Lesson:
        """Pair the layers, ask the teacher, and build what is trained beside the student."""
        device, inputs = device_of(context.train), context.task.example_inputs(2)
        pairs: Pairs = ()
        beside = nn.ModuleList()
        if options.inside:
            if isinstance(teacher, Fused):
                raise CompressionError("distillation: several teachers have no layers to compare: use kind soft")
            pairs = layer_pairs(student.eval(), teacher, options.layers, inputs)
            torch.manual_seed(context.train.seed)
            beside = projections(student, teacher, pairs, inputs)
        adversary = None
        if options.kind == "adversarial":
            adversary = Adversary(
                channels_of(teacher, pairs, inputs),
                learning_rate=options.discriminator_learning_rate,
                seed=context.train.seed,
                device=device,
            )
        answers = answering(teacher, [pair[1] for pair in pairs], context, device)
        return cls(options=options, taught=Taught(student, beside), answers=answers, pairs=pairs, adversary=adversary)

    def loss(self, context: Context, *, classes: bool) -> StepLoss:
        """Return the loss of one batch; the teacher sees the inputs that the student saw, augmentation included."""
        default = 1.0 if self.options.kind == "feature" else 0.1
        strength = default if self.options.strength is None else self.options.strength

        def loss(outputs: Tensor, batch: Batch) -> Tensor:
            answers = self.answers(batch)
            total = self.options.combined(outputs, answers.outputs, batch, context, classes=classes)
            if self.options.kind not in ("feature", "adversarial"):
                return total
            return total + strength * self.third_part(outputs, answers)

        return loss

    def third_part(self, outputs: Tensor, answers: TeacherAnswers) -> Tensor:
        """Return the distance of features, or what the adversary sees."""
        if not self.pairs:
            assert self.adversary is not None  # __post_init__ leaves no other way here
            return self.adversary([outputs], [answers.outputs])
        seen = shaped(self.taught.student, self.taught.seen)
        own = [projected(seen[pair[0]], layer) for pair, layer in zip(self.pairs, self.taught.beside, strict=True)]
        others = [answers.features[pair[1]] for pair in self.pairs]
        if self.adversary:
            return self.adversary(own, others)
        return torch.stack([distance(mine, theirs) for mine, theirs in zip(own, others, strict=True)]).mean()


@torch.no_grad()
def channels_of(teacher: nn.Module, pairs: Pairs, inputs: Any) -> list[int]:
    """Count the channels of what the discriminators look at: the paired layers, or the output."""
    with captured(teacher, [pair[1] for pair in pairs]) as seen:
        outputs = call(teacher, inputs)
    found = shaped(teacher, seen)
    return [found[pair[1]].shape[1] for pair in pairs] or [flat(outputs).shape[1]]
