"""Training with a price on every bit of the coded file: pruning, quantization and removal of units from one knob."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from compression_gate.codec.coded_size import coded_bytes
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.dead_units import removable_biases, without_dead_units
from compression_gate.methods.distillation import Distillation, TeacherOption
from compression_gate.methods.integer_layers import finite_weights, refuse_none, with_norms_folded
from compression_gate.methods.options import inside, not_exactly_one, not_one_of, outside, refuse
from compression_gate.methods.priced_weights import Priced, filled, found, rounded_while_trained
from compression_gate.methods.rate_control import RateControl
from compression_gate.methods.teacher_answers import answering
from compression_gate.methods.teachers import REFERENCE, open_teacher, remark_quality, teacher_problems
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.surgery import state_digest
from compression_gate.tasks.task import Batch
from compression_gate.tasks.training import Fitting, StepLoss, batches_an_epoch, device_of, fit, in_turn


@dataclass(frozen=True, kw_only=True)
class RateAwareTraining:
    """Train weights that are integers times a learned step, on a loss that counts the bits they will take.

    The model keeps its plain float layers: every weight is exactly an integer times its tensor's step, which the coded
    file finds by itself. So every runtime takes it as it is, and nothing beside the numbers has to be stored.

    Args:
        strength: price of a bit, in multiples of ln 2 / N units of loss, N examples in the train split. At 1 a bit of
            weights costs as much as a bit of the training labels, which is what the shortest description of both would
            pay; above it the file gets smaller than the data ask for. The price rises quadratically until half time.
        target_bytes: instead: bytes of the coded tensors to end at; the price follows what the coder itself says. It is
            asked some sixty times, which takes a second for each million weights.
        levels: the largest integer of a layer's weight, 1 to 127. Biases and what belongs to no layer of torch's
            (embeddings of positions) have up to 15, and the weights of norms 63, of a finer step.
        epochs: of training; data, batch size and augmentation are those of ``train``.
        freeze: share of the training, at its end, in which zeros stay zero and nothing else becomes zero. The learning
            rate, which falls along ``one_cycle`` or ``cosine``, is low then.
        learning_rate: the highest of the schedule; the default is that of ``train``.
        teacher, temperature, alpha: as in ``distillation``; with ``alpha`` 0 the labels alone teach, whatever the
            other two are.
        ignore: names of modules whose weights have no price and stay floats, with everything inside them; they are
            trained as all others, and their zeros stay.

    Source: the price of bits in the loss: D. Oktay et al., Scalable Model Compression by Entropy Penalized
        Reparameterization, ICLR 2020, eq. 3; ours counts the coder's contexts where they train a density model. Its
        unit: G. Hinton and D. van Camp, Keeping the Neural Networks Simple by Minimizing the Description Length of the
        Weights, COLT 1993. Steps: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020.
    """

    effect: ClassVar[Effect] = "fewer_values"
    strength: float | None = None
    target_bytes: int | None = None
    levels: int = 3
    epochs: int = 10
    freeze: float = 0.15
    learning_rate: float | None = None
    teacher: TeacherOption = REFERENCE
    temperature: float = 2.0
    alpha: float = 0.7
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse(
            not_exactly_one(strength=self.strength, target_bytes=self.target_bytes),
            outside("strength", self.strength, 0, open_="["),
            outside("target_bytes", self.target_bytes, 1),
            outside("levels", self.levels, 1, 127),
            outside("epochs", self.epochs, 1),
            outside("freeze", self.freeze, 0, 1, open_="]"),
            outside("learning_rate", self.learning_rate, 0, open_="["),
            outside("temperature", self.temperature, 0, open_="["),
            outside("alpha", self.alpha, 0, 1),
            *teacher_problems(self.teacher),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a trained copy of ``model`` whose weights are integers times a step.

        Raises:
            CompressionError: there is nothing to treat, or weights are not finite.
        """
        refuse(*(not_one_of("ignore", name, dict(model.named_modules())) for name in self.ignore))
        shell = self.plain(model, context)
        treated, reasons = found(shell, self.ignore)
        context.notes.uncovered.update(reasons)
        context.notes.covered.extend(treated)
        refuse_none("rate_aware_training", "layers with weights", model, context)
        finite_weights("rate_aware_training", "", shell)
        ignored = {name for name, _ in shell.named_modules() if inside(name, self.ignore)}
        student = copy.deepcopy(shell)
        holders = dict(student.named_parameters())
        priced = rounded_while_trained(student, {name: holders[name] for name in treated}, self.levels)
        control = self.control(shell, priced, context)
        control.removable = removable_biases(shell, context, ignored)
        control.shrink = lambda made: without_dead_units(made, context, ignored)[0]
        self.train(student, control, model, context)
        made = filled(shell, student, priced)
        smaller, lost = without_dead_units(made, context, ignored)
        self.note(smaller, lost, control, context)
        return smaller.eval()

    def plain(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy with norms folded into the convolutions before them: what is left has few floats to store."""
        return copy.deepcopy(model).eval() if self.ignore else with_norms_folded(model, context)[0]

    def control(self, shell: nn.Module, priced: list[Priced], context: Context) -> RateControl:
        """Return what sets the price of a bit."""
        examples = len(context.task.split("train"))
        steps = self.epochs * batches_an_epoch(context.task, context.train)
        return RateControl(
            priced=priced,
            shell=shell,
            steps=steps,
            frozen_from=max(1, math.ceil(steps * (1 - self.freeze))),
            strength=self.strength,
            target=self.target_bytes,
            unit=math.log(2) / examples,
        )

    def train(self, student: nn.Module, control: RateControl, model: nn.Module, context: Context) -> None:
        """Train weights and steps in place."""
        changes: dict[str, Any] = {
            "epochs": self.epochs,
            "learning_rate": self.learning_rate or context.train.learning_rate,
        }
        if context.train.schedule == "constant":
            changes["schedule"] = "cosine"  # the learning rate has to be low while zeros are frozen
        fitting = Fitting(
            options=context.train.model_copy(update=changes),
            loss=self.loss(control, context),
            after_step=in_turn(control, keeper(zeros_of(student))),
            checkpoint=context.checkpoint,
            label="rate_aware_training",
            key=f"{self} {state_digest(model)} {state_digest(context.reference)}",
            companions=(control,),
        )
        context.notes.add_curve("rate_aware_training", fit(student, context.task, fitting))

    def loss(self, control: RateControl, context: Context) -> StepLoss:
        """Return the loss of one batch: the task's, the teacher's, and the price of the bits."""
        lesson = Distillation(temperature=self.temperature, alpha=self.alpha, epochs=self.epochs, teacher=self.teacher)
        classes = context.task.params.kind == "classification"
        ask = None
        if self.alpha > 0:
            teacher = open_teacher(self.teacher, context)
            if self.teacher != REFERENCE:
                remark_quality(teacher, "teacher", context)
            ask = answering(teacher, (), context, device_of(context.train))

        def loss(outputs: Tensor, batch: Batch) -> Tensor:
            if ask is None:
                return context.task.loss(outputs, batch.targets) + control.cost()
            answers = ask(batch).outputs
            return lesson.combined(outputs, answers, batch, context, classes=classes) + control.cost()

        return loss

    def note(self, smaller: nn.Module, lost: dict[str, int], control: RateControl, context: Context) -> None:
        """Say how large the coded tensors are, how the estimate did, and what left."""
        remarks = context.notes.remarks
        remarks.extend(control.summary(coded_bytes(smaller)))
        if lost:
            units = ", ".join(f"{count} of {name}" for name, count in lost.items())
            remarks.append(f"units without any weight, or that nothing reads, were removed: {units}")
        if any(name.endswith("running_mean") for name, _ in smaller.named_buffers()):
            remarks.append(
                "statistics of norms stay in float: put batchnorm_folding before this step where the order allows"
            )
