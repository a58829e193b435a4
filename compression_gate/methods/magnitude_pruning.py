"""Unstructured pruning: single weights become zero, the least important first; zeros stay while the rest is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.budgets import shares_by_weight
from compression_gate.methods.gradual_pruning import Ramp, cutter, prepared
from compression_gate.methods.options import inside, not_exactly_one, not_one_of, outside, refuse
from compression_gate.methods.rankings import Scope, Share, lowest
from compression_gate.methods.scores import gradients
from compression_gate.methods.sparsity_patterns import LARGEST_GROUP, misfit, owners_of, parsed, pattern_masks
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.surgery import owners, state_digest, unknown_weights, weights
from compression_gate.tasks.training import AfterStep, Fitting, batches_an_epoch, fit, in_turn

Score = Literal["l1", "l2", "gradient", "taylor", "random"]
Schedule = Literal["one_shot", "gradual"]


@dataclass(frozen=True, kw_only=True)
class MagnitudePruning:
    """Set the weights of least importance to zero: convolutions, linear, recurrent and attention layers.

    A weight that layers share is treated once. Biases and norms are not pruned.

    Args:
        sparsity: share of zero weights to reach, in [0, 1), zeros that are there already counted.
        threshold: instead: every weight of smaller magnitude goes, in the weights' own unit.
        pattern: instead: ``"N:M"``, at most N of every M neighbours along a layer's input axis stay; a layer whose
            inputs do not divide by M is left and named.
        budget: instead: share of zeros, in (0, 1), of all treated weights together, spread so that least is lost by the
            table of sensitivities, which is measured by the same ``score``.
        budget_bytes: instead: what the coded file may take for the whole model's tensors [bytes], spread likewise, by
            what the coder makes of each layer.
        scope: ``local``: that share in each weight matrix; ``global``: over all together; for ``sparsity`` alone.
        score: what a weight is worth: its magnitude (``l1``; ``l2`` orders single weights alike), the ``gradient`` of
            the loss on the calibration split, ``taylor``: |w·g|, or ``random``, the control.
        epochs: of fine-tuning with the task's loss; zeros stay zero.
        learning_rate: of the fine-tuning, if there is any; the default is that of ``train``.
        schedule: ``one_shot``: all zeros before the fine-tuning; ``gradual``: along a cubic curve during its first
            three quarters, ranked by magnitude among the weights that are left.
        regrowth: with ``gradual``: share of the weights left, in [0, 1), that each cut also exchanges for zeros with
            the largest gradient; falls to 0 at the end of the curve. Zeros of earlier steps may come back, too.
        embeddings: whether tables of embeddings are treated as well; rare rows suffer, and a look-up is no faster.
        ignore: names of modules that are not pruned, with everything inside them; fine-tuning trains them as all
            others, and keeps their zeros.

    Source: S. Han et al., Learning both Weights and Connections, NIPS 2015; M. Zhu and S. Gupta, To Prune or not to
        Prune, 2017, eq. 1 (the cubic curve); P. Molchanov et al. 2017, eq. 4 (Taylor).
    """

    effect: ClassVar[Effect] = "fewer_nonzeros"
    sparsity: float | None = None
    threshold: float | None = None
    pattern: str | None = None
    budget: float | None = None
    budget_bytes: int | None = None
    scope: Scope = "local"
    score: Score = "l1"
    epochs: int = 0
    learning_rate: float | None = None
    schedule: Schedule = "one_shot"
    regrowth: float = 0.0
    embeddings: bool = False
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        magnitude = self.score in ("l1", "l2")
        refuse(
            not_exactly_one(
                sparsity=self.sparsity,
                threshold=self.threshold,
                pattern=self.pattern,
                budget=self.budget,
                budget_bytes=self.budget_bytes,
            ),
            outside("budget", self.budget, 0, 1, open_="[]"),
            outside("budget_bytes", self.budget_bytes, 1),
            f"scope: a budget says how many zeros each layer gets: expected local, got {self.scope!r}"
            if self.is_spread and self.scope == "global"
            else None,
            f"scope: a threshold is the same in all layers: expected local, got {self.scope!r}"
            if self.threshold is not None and self.scope == "global"
            else None,
            outside("sparsity", self.sparsity, 0, 1, open_="]"),
            outside("threshold", self.threshold, 0),
            not_one_of("scope", self.scope, get_args(Scope)),
            not_one_of("score", self.score, get_args(Score)),
            not_one_of("schedule", self.schedule, get_args(Schedule)),
            outside("epochs", self.epochs, 0),
            outside("learning_rate", self.learning_rate, 0, open_="["),
            outside("regrowth", self.regrowth, 0, 1, open_="]"),
            self.gradual_problem() if self.schedule == "gradual" else self.one_shot_problem(),
            f"threshold: is a magnitude: expected score l1 or l2, got {self.score!r}"
            if self.threshold is not None and not magnitude
            else None,
            self.pattern_problem() if self.pattern is not None else None,
        )

    @property
    def is_spread(self) -> bool:
        """Whether a budget says how many zeros each layer gets."""
        return self.budget is not None or self.budget_bytes is not None

    def gradual_problem(self) -> str | None:
        """Describe what a gradual schedule cannot do, or return None."""
        if self.epochs == 0:
            return "schedule: gradual prunes while it trains: expected epochs of 1 or more, got 0"
        if self.sparsity is None and not self.is_spread:
            other = "threshold" if self.threshold is not None else "pattern"
            return f"schedule: gradual ranks by magnitude up to a share: expected sparsity or budget, got {other}"
        if self.score not in ("l1", "l2"):
            return f"schedule: gradual ranks by magnitude: expected score l1 or l2, got score {self.score!r}"
        return None

    def one_shot_problem(self) -> str | None:
        """Describe an option that needs a gradual schedule, or return None."""
        if self.regrowth > 0:
            return f"regrowth: happens while sparsity rises: expected schedule gradual, got {self.schedule!r}"
        return None

    def pattern_problem(self) -> str | None:
        """Describe a pattern that is none, or return None."""
        if parsed(str(self.pattern)) is None:
            return f'pattern: expected "N:M" with 1 <= N < M <= {LARGEST_GROUP}, such as "2:4", got {self.pattern!r}'
        if self.scope == "global":
            return "scope: a pattern fixes the share of each group: expected local, got 'global'"
        return None

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a sparser copy of ``model``."""
        refuse(*(not_one_of("ignore", name, dict(model.named_modules())) for name in self.ignore))
        sparser = copy.deepcopy(model).eval()
        reasons = self.left(sparser) | unknown_weights(sparser)
        treated = {name: weight for name, weight in weights(sparser).items() if name not in reasons}
        if not treated:
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise CompressionError(
                f"magnitude_pruning: no layer can be treated: {why or 'none has weights'}: leave the step out"
            )
        context.notes.covered.extend(treated)
        context.notes.uncovered.update(reasons)
        if self.epochs:
            context.notes.remark_frozen(sparser)
        share = shares_by_weight(self, model, treated, context) if self.is_spread else self.sparsity or 0.0
        if self.schedule == "gradual":
            return self.gradually(sparser, share, context)
        scores = scores_of(sparser, self.score, context)
        cut(treated, self.leaving(sparser, treated, {name: scores[name] for name in treated}, share))
        if self.epochs:
            fitting = self.fitting(sparser, context, keeper(zeros_of(sparser)))
            context.notes.add_curve(fitting.label, fit(sparser, context.task, fitting))
        return sparser

    def left(self, model: nn.Module) -> dict[str, str]:
        """Return the weights that stay as they are, each with the reason."""
        reasons = {}
        for name, weight in weights(model).items():
            if any(inside(name, self.ignore) for name in owners(model, weight)):
                reasons[name] = "it is in `ignore`"
            elif not self.embeddings and any(isinstance(layer, nn.Embedding) for layer in owners_of(model, weight)):
                reasons[name] = "is an embedding's table: embeddings: true treats it"
            elif self.pattern is not None and (reason := misfit(model, weight, self.pattern)):
                reasons[name] = reason
        return reasons

    def leaving(
        self, model: nn.Module, treated: dict[str, nn.Parameter], scores: dict[str, Tensor], share: Share
    ) -> dict[str, Tensor]:
        """Return, for each weight, where it becomes zero: bool, in the weight's shape."""
        if self.threshold is not None:
            return {name: weight.detach().abs() < self.threshold for name, weight in treated.items()}
        if self.pattern is not None:
            return pattern_masks(model, treated, scores, self.pattern)
        return lowest(scores, share, self.scope)

    def fitting(self, model: nn.Module, context: Context, after_step: AfterStep | None) -> Fitting:
        """Return what the fine-tuning is asked for."""
        rate = self.learning_rate or context.train.learning_rate
        options = context.train.model_copy(update={"epochs": self.epochs, "learning_rate": rate})
        key = f"{self} {state_digest(model)}"
        return Fitting(
            options=options, after_step=after_step, checkpoint=context.checkpoint, label="magnitude_pruning", key=key
        )

    def gradually(self, model: nn.Module, target: Share, context: Context) -> nn.Module:
        """Train the model while its sparsity rises to the target."""
        left = self.left(model)

        def treated(current: nn.Module) -> dict[str, nn.Parameter]:
            return {name: weight for name, weight in weights(current).items() if name not in left}

        start: Share
        if isinstance(target, Mapping):
            start = {name: min(target[name], zero_share({name: weight})) for name, weight in treated(model).items()}
        else:
            start = min(target, zero_share(treated(model)))
        ramp = Ramp(
            start=start,
            end=target,
            steps=batches_an_epoch(context.task, context.train) * self.epochs,
            scope=self.scope,
            regrowth=self.regrowth,
        )
        rest = {name: mask for name, mask in zeros_of(model).items() if name in left}
        fitting = self.fitting(model, context, in_turn(cutter(ramp, treated), keeper(rest)))
        taken_out = prepared(model, treated)
        context.notes.add_curve(fitting.label, fit(model, context.task, fitting))
        taken_out()
        return model


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


@torch.no_grad()
def cut(treated: dict[str, nn.Parameter], masks: dict[str, Tensor]) -> None:
    """Set the masked weights to zero."""
    for name, mask in masks.items():
        treated[name].masked_fill_(mask, 0)


def zero_share(treated: dict[str, nn.Parameter]) -> float:
    """Return the share of weights that are zero."""
    zeros = sum(int((weight == 0).sum()) for weight in treated.values())
    return zeros / max(1, sum(weight.numel() for weight in treated.values()))
