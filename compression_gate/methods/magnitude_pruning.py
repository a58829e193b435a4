"""Unstructured pruning: single weights become zero, the least important first; zeros stay while the rest is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.options import not_exactly_one, not_one_of, outside, refuse
from compression_gate.methods.scores import gradients
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.surgery import state_digest, unknown_weights, weights
from compression_gate.tasks.training import Fitting, fit

Scope = Literal["local", "global"]
Score = Literal["l1", "l2", "gradient", "taylor", "random"]
Schedule = Literal["one_shot", "gradual"]
RAMP_SHARE = 0.75  # of the steps: the last quarter trains at the final sparsity, so that the last cut can heal
REMASK_EVERY = 10  # steps: ranking all weights costs about a step's worth of time
COUNTER = "compression_gate_step"


@dataclass(frozen=True, kw_only=True)
class MagnitudePruning:
    """Set the weights of least importance to zero; convolutions, linear, recurrent, attention and embedding layers.

    Args:
        sparsity: share of zero weights to reach, in [0, 1), zeros that are there already counted.
        threshold: instead: every weight of smaller magnitude goes, in the weights' own unit.
        scope: ``local``: that share in each layer; ``global``: over all layers together.
        score: what a weight is worth: its magnitude (``l1``; ``l2`` orders single weights alike), the ``gradient`` of
            the loss on the calibration split, ``taylor``: |w·g|, or ``random``, the control.
        epochs: of fine-tuning with the task's loss; zeros stay zero.
        learning_rate: of the fine-tuning; the default is that of ``train``.
        schedule: ``one_shot``: all zeros before the fine-tuning; ``gradual``: along a cubic curve during its first
            three quarters, ranked by magnitude among the weights that are left.

    Source: S. Han et al., Learning both Weights and Connections, NIPS 2015; M. Zhu and S. Gupta, To Prune or not to
        Prune, 2017, eq. 1 (the cubic curve); P. Molchanov et al. 2017, eq. 4 (Taylor).
    """

    effect: ClassVar[Effect] = "fewer_nonzeros"
    sparsity: float | None = None
    threshold: float | None = None
    scope: Scope = "local"
    score: Score = "l1"
    epochs: int = 0
    learning_rate: float | None = None
    schedule: Schedule = "one_shot"

    def __post_init__(self) -> None:
        magnitude = self.score in ("l1", "l2")
        gradual = self.schedule == "gradual"
        refuse(
            not_exactly_one(sparsity=self.sparsity, threshold=self.threshold),
            outside("sparsity", self.sparsity, 0, 1, open_="]"),
            outside("threshold", self.threshold, 0),
            not_one_of("scope", self.scope, get_args(Scope)),
            not_one_of("score", self.score, get_args(Score)),
            not_one_of("schedule", self.schedule, get_args(Schedule)),
            outside("epochs", self.epochs, 0),
            outside("learning_rate", self.learning_rate, 0, open_="["),
            "schedule: gradual prunes while it trains: expected epochs of 1 or more, got 0"
            if gradual and self.epochs == 0
            else None,
            "schedule: gradual ranks by magnitude up to a share: expected sparsity with score l1 or l2, "
            f"got {'threshold' if self.sparsity is None else f'score {self.score!r}'}"
            if gradual and (self.sparsity is None or not magnitude)
            else None,
            f"threshold: is a magnitude: expected score l1 or l2, got {self.score!r}"
            if self.threshold is not None and not magnitude
            else None,
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a sparser copy of ``model``."""
        sparser = copy.deepcopy(model).eval()
        treated = weights(sparser)
        if not treated:
            raise CompressionError("magnitude_pruning: no layer has weights of a known type: leave the step out")
        context.notes.covered.extend(treated)
        context.notes.uncovered.update(unknown_weights(sparser))
        if self.schedule == "gradual":
            return gradually(sparser, self, context)
        cut(treated, self.leaving(treated, scores_of(sparser, self.score, context)))
        if self.epochs:
            fit(sparser, context.task, self.fitting(sparser, context, keeper(zeros_of(sparser))))
        return sparser

    def leaving(self, treated: dict[str, nn.Parameter], scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return, for each weight, where it becomes zero: bool, in the weight's shape."""
        if self.threshold is not None:
            return {name: weight.detach().abs() < self.threshold for name, weight in treated.items()}
        return lowest(scores, self.sparsity or 0.0, self.scope)

    def fitting(self, model: nn.Module, context: Context, after_step: Callable[[nn.Module], None] | None) -> Fitting:
        """Return what the fine-tuning is asked for."""
        rate = self.learning_rate or context.train.learning_rate
        options = context.train.model_copy(update={"epochs": self.epochs, "learning_rate": rate})
        key = f"{self} {state_digest(model)}"
        return Fitting(
            options=options, after_step=after_step, checkpoint=context.checkpoint, label="magnitude_pruning", key=key
        )


def scores_of(model: nn.Module, score: Score, context: Context) -> dict[str, Tensor]:
    """Return the importance of each single weight, higher is kept; a weight that is zero already is worth least."""
    treated = weights(model)
    if score == "random":
        random = torch.Generator().manual_seed(context.train.seed)
        found = {name: torch.rand(weight.shape, generator=random) for name, weight in treated.items()}
    elif score in ("gradient", "taylor"):
        slopes = gradients(copy.deepcopy(model).requires_grad_(True), context)
        factors = {name: weight.detach() if score == "taylor" else 1.0 for name, weight in treated.items()}
        found = {
            name: (slopes.get(name, torch.zeros_like(weight)) * factors[name]).abs() for name, weight in treated.items()
        }
    else:
        found = {name: weight.detach().abs() for name, weight in treated.items()}
    return {name: values.masked_fill(treated[name].detach() == 0, -1) for name, values in found.items()}


def lowest(scores: dict[str, Tensor], share: float, scope: Scope) -> dict[str, Tensor]:
    """Return where the lowest ``share`` of the scores is, of each tensor or of all together; ties by position."""
    if scope == "global":
        together = lowest_of(torch.cat([values.flatten() for values in scores.values()]), share)
        parts = together.split([values.numel() for values in scores.values()])
        return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
    return {name: lowest_of(values.flatten(), share).view(values.shape) for name, values in scores.items()}


def lowest_of(values: Tensor, share: float) -> Tensor:
    """Return where the ``floor(share × n)`` lowest of the values ``(n,)`` are."""
    # A billionth of slack: 0.7 × 10 is a little under 7 in floating point.
    count = math.floor(share * len(values) + 1e-9)
    mask = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    mask[values.argsort(stable=True)[:count]] = True
    return mask


@torch.no_grad()
def cut(treated: dict[str, nn.Parameter], masks: dict[str, Tensor]) -> None:
    """Set the masked weights to zero."""
    for name, mask in masks.items():
        treated[name].masked_fill_(mask, 0)


def cubic(step: int, steps: int, start: float, end: float) -> float:
    """Return the sparsity at ``step``.

    Source: M. Zhu and S. Gupta 2017, eq. 1.
    """
    done = min(1.0, step / max(1.0, steps * RAMP_SHARE))
    return end + (start - end) * (1 - done) ** 3


def gradually(model: nn.Module, options: MagnitudePruning, context: Context) -> nn.Module:
    """Train the model while its sparsity rises; a weight that went stays away."""
    target = options.sparsity or 0.0
    start = min(target, zero_share(model))
    batches = math.ceil(len(context.task.split("train")) / context.train.batch_size)
    steps = batches * options.epochs
    fitting_key = options.fitting(model, context, None)
    masks = {name: f"{COUNTER}_{index}" for index, name in enumerate(weights(model))}
    # Both live in the state dict while training lasts: a fitting that is continued after a kill finds them there.
    model.register_buffer(COUNTER, torch.zeros((), dtype=torch.long))
    for name, weight in weights(model).items():
        model.register_buffer(masks[name], weight.detach() == 0)

    def after_step(current: nn.Module) -> None:
        counter = current.get_buffer(COUNTER)
        counter += 1
        treated = weights(current)
        zeros = {name: current.get_buffer(masks[name]) for name in treated}
        if int(counter) % REMASK_EVERY == 0 or int(counter) >= steps * RAMP_SHARE:
            cut(treated, zeros)
            magnitudes = {name: w.detach().abs().masked_fill(zeros[name], -1) for name, w in treated.items()}
            wanted = cubic(int(counter), steps, start, target)
            for name, mask in lowest(magnitudes, wanted, options.scope).items():
                zeros[name].logical_or_(mask)
        cut(treated, zeros)

    fit(model, context.task, Fitting(**{**vars(fitting_key), "after_step": after_step}))
    for name in (COUNTER, *masks.values()):
        delattr(model, name)
    return model


def zero_share(model: nn.Module) -> float:
    """Return the share of weights that are zero."""
    treated = weights(model).values()
    return sum(int((weight == 0).sum()) for weight in treated) / max(1, sum(weight.numel() for weight in treated))
