"""Distillation: the compressed model learns from what the reference answers, beside the labels."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.options import not_one_of, outside, refuse
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.surgery import state_digest
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import Batch
from compression_gate.tasks.training import Fitting, StepLoss, device_of, fit, uses_bfloat16

Kind = Literal["soft", "hard"]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Train the model on ``alpha`` parts of the teacher's answers and ``1 - alpha`` parts of the task's own loss.

    Weights that earlier steps set to zero stay zero. Regression and custom tasks have no classes: there, ``soft`` is
    the mean squared distance to the teacher's outputs.

    Args:
        kind: ``soft``: the teacher's probabilities at ``temperature``; ``hard``: the class it would choose.
        temperature: above 1 shows how the teacher ranks the wrong classes; 4 is what most of the literature takes.
        alpha: share of the teacher in the loss, in [0, 1].
        epochs: of training; data, batch size, schedule and augmentation are those of ``train``.
        learning_rate: the highest of the schedule; the default is that of ``train``.

    Source: G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network, 2015, §2: the soft part is
        multiplied by T², which keeps its gradients the size of those of the labels.
    """

    effect: ClassVar[Effect] = "changed_weights"
    kind: Kind = "soft"
    temperature: float = 4.0
    alpha: float = 0.7
    epochs: int = 2
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        refuse(
            not_one_of("kind", self.kind, get_args(Kind)),
            outside("temperature", self.temperature, 0, open_="["),
            outside("alpha", self.alpha, 0, 1),
            outside("epochs", self.epochs, 1),
            outside("learning_rate", self.learning_rate, 0, open_="["),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a trained copy of ``model``."""
        classes = context.task.params.kind == "classification"
        if self.kind == "hard" and not classes:
            raise CompressionError(
                f"distillation: kind hard needs classes to choose from, task.kind is {context.task.params.kind}: "
                "use kind soft"
            )
        student = copy.deepcopy(model)
        rate = self.learning_rate or context.train.learning_rate
        options = context.train.model_copy(update={"epochs": self.epochs, "learning_rate": rate})
        key = f"{self} {state_digest(model)} {state_digest(context.reference)}"
        fitting = Fitting(
            options=options,
            loss=self.loss(context, classes=classes),
            after_step=keeper(zeros_of(student)),
            checkpoint=context.checkpoint,
            label="distillation",
            key=key,
        )
        context.notes.add_curve(fitting.label, fit(student, context.task, fitting))
        context.notes.covered.extend(name for name, weight in student.named_parameters() if weight.requires_grad)
        context.notes.uncovered.update(
            {name: "frozen" for name, weight in student.named_parameters() if not weight.requires_grad}
        )
        return student

    def loss(self, context: Context, *, classes: bool) -> StepLoss:
        """Return the loss of one batch; the teacher sees the inputs that the student saw, augmentation included."""
        device = device_of(context.train)
        teacher = copy.deepcopy(context.reference).to(device).eval().requires_grad_(False)
        half = uses_bfloat16(context.train, device)

        def combined(outputs: Tensor, batch: Batch) -> Tensor:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                answers = call(teacher, batch.inputs)
            answers = answers.float()
            if answers.shape != outputs.shape:
                raise CompressionError(
                    f"distillation: expected the teacher's outputs to be like the model's {tuple(outputs.shape)}, "
                    f"got {tuple(answers.shape)}"
                )
            taught = self.taught(outputs, answers, classes=classes)
            if self.alpha == 1:
                return taught
            return self.alpha * taught + (1 - self.alpha) * context.task.loss(outputs, batch.targets)

        return combined

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
