"""Sparsity training: the loss also counts the weights, so that pruning afterwards finds less to lose."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.options import not_one_of, outside, refuse
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.surgery import state_digest, unknown_weights, weights
from compression_gate.tasks.task import Batch
from compression_gate.tasks.training import Fitting, StepLoss, fit

Penalty = Literal["l1", "l2", "group_lasso", "random"]


@dataclass(frozen=True, kw_only=True)
class SparsityTraining:
    """Train on the task's loss plus ``strength`` times a penalty on the weights; biases and norms are free.

    No weight becomes exactly zero by this: pruning behind it cuts what has become small. Zeros stay zero.

    Args:
        penalty: ``l1``: the sum of |w|, which makes single weights small; ``l2``: the sum of w²; ``group_lasso``: the
            sum over output channels, neurons, or units of a recurrent layer of √n·‖w‖, n weights each, which makes
            whole channels small; ``random``: the control: each weight is pushed as hard as by l1, each step in a
            direction drawn anew.
        strength: factor of the penalty, above 0; the sum is over all weights, so a larger model wants a smaller one.
        epochs: of training; data, batch size, schedule and augmentation are those of ``train``.
        learning_rate: the highest of the schedule; the default is that of ``train``.

    Source: R. Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996 (l1); M. Yuan and Y. Lin, Model
        Selection and Estimation in Regression with Grouped Variables, 2006, eq. 2.1 (group lasso); W. Wen et al.,
        Learning Structured Sparsity in Deep Neural Networks, NIPS 2016, §3.2 (over channels).
    """

    effect: ClassVar[Effect] = "changed_weights"
    penalty: Penalty = "l1"
    strength: float = 1e-4
    epochs: int = 2
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        refuse(
            not_one_of("penalty", self.penalty, get_args(Penalty)),
            outside("strength", self.strength, 0, open_="["),
            outside("epochs", self.epochs, 1),
            outside("learning_rate", self.learning_rate, 0, open_="["),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a trained copy of ``model``."""
        sparser = copy.deepcopy(model)
        treated = {name: weight for name, weight in weights(sparser).items() if weight.requires_grad}
        frozen = {name: "frozen" for name in weights(sparser) if name not in treated}
        context.notes.uncovered.update(frozen | unknown_weights(sparser))
        if not treated:
            why = "; ".join(f"{name}: {reason}" for name, reason in context.notes.uncovered.items())
            raise CompressionError(f"sparsity_training: no weights can be trained: {why or 'the model has no layers'}")
        context.notes.covered.extend(treated)
        rate = self.learning_rate or context.train.learning_rate
        fitting = Fitting(
            options=context.train.model_copy(update={"epochs": self.epochs, "learning_rate": rate}),
            loss=self.loss(sparser, context),
            after_step=keeper(zeros_of(sparser)),
            checkpoint=context.checkpoint,
            label="sparsity_training",
            key=f"{self} {state_digest(model)}",
        )
        context.notes.add_curve("sparsity_training", fit(sparser, context.task, fitting))
        return sparser

    def loss(self, model: nn.Module, context: Context) -> StepLoss:
        """Return the loss of one batch: the task's, and the penalty of the weights as they are then."""
        owners = dict(model.named_modules(remove_duplicate=False))

        def combined(outputs: Tensor, batch: Batch) -> Tensor:
            penalties = (
                self.of(weight, owners[name.rpartition(".")[0]])
                for name, weight in weights(model).items()
                if weight.requires_grad
            )
            return context.task.loss(outputs, batch.targets) + self.strength * sum(penalties)

        return combined

    def of(self, weight: Tensor, owner: nn.Module) -> Tensor:
        """Return the penalty of one layer's weight, a scalar."""
        match self.penalty:
            case "l1":
                return weight.abs().sum()
            case "l2":
                return weight.square().sum()
            case "group_lasso":
                rows = channels(weight, owner)
                # The root's slope at zero is infinite: a channel of zeros takes the slope 0, one of the subgradients.
                lengths = rows.square().sum(1)
                return math.sqrt(rows.shape[1]) * lengths[lengths > 0].sqrt().sum()
            case _:
                # From the global generator, which the training loop seeds each epoch: a continued run draws alike.
                signs = torch.randint(0, 2, weight.shape, device=weight.device) * 2 - 1
                return (signs * weight).sum()


def channels(weight: Tensor, owner: Any) -> Tensor:
    """Return the weights that stand or fall together as rows: of an output channel, neuron, dimension or unit."""
    if isinstance(owner, nn.RNNBase):
        gates = {"LSTM": 4, "GRU": 3}.get(owner.mode, 1)  # the gates of one unit lie a hidden size apart
        return weight.reshape(gates, -1, weight.shape[1]).transpose(0, 1).flatten(1)
    if isinstance(owner, nn.Embedding):
        return weight.T
    if getattr(owner, "transposed", False):
        groups = owner.groups  # (I, O / groups, …): a group's inputs after those of another
        return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1).flatten(1)
    return weight.flatten(1)
