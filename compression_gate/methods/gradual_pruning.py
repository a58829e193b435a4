"""Pruning while training: sparsity rises along a cubic curve, and weights that went too early may come back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression_gate.methods.rankings import Scope, Share, lowest, lowest_of

RAMP_SHARE = 0.75  # of the steps: the last quarter trains at the final sparsity, so that the last cut can heal
CUT_EVERY = 10  # steps: ranking all weights costs about a step's worth of time
REGROW_EVERY = 50  # steps: what came back needs some of them to grow before it is ranked again
MOST_OF_RAMP = 0.1  # where training is short, the steps between two exchanges are at most this share of the ramp
COUNTER = "compression_gate_step"

Treated = Callable[[nn.Module], dict[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """From how many zeros to how many, over how many optimizer steps.

    Args:
        start, end: shares of zeros, 0–1; both by name of the weight where each has its own.
        steps: of the whole training.
        scope: whether each weight matrix reaches ``end``, or all together.
        regrowth: share of the weights still there that is exchanged at the first cut; falls to 0 along a cosine.
    """

    start: Share
    end: Share
    steps: int
    scope: Scope
    regrowth: float = 0.0

    @property
    def last(self) -> int:
        """The step of the last cut."""
        return max(1, math.ceil(self.steps * RAMP_SHARE))

    @property
    def every(self) -> int:
        """Steps between two cuts."""
        if not self.regrowth:
            return CUT_EVERY
        return max(1, min(REGROW_EVERY, int(self.last * MOST_OF_RAMP)))

    def wanted(self, step: int) -> Share:
        """Return the share of zeros at ``step``."""
        if isinstance(self.start, Mapping) and isinstance(self.end, Mapping):
            return {name: cubic(step, self.steps, self.start[name], end) for name, end in self.end.items()}
        assert not isinstance(self.start, Mapping)  # both are, or none
        assert not isinstance(self.end, Mapping)
        return cubic(step, self.steps, self.start, self.end)

    def exchanged(self, step: int) -> float:
        """Return the share of the remaining weights to exchange at ``step``.

        Source: U. Evci et al., Rigging the Lottery, ICML 2020, §3, "Update schedule": α/2 · (1 + cos(tπ/T)).
        """
        return 0.0 if step >= self.last else self.regrowth / 2 * (1 + math.cos(math.pi * step / self.last))


def cubic(step: int, steps: int, start: float, end: float) -> float:
    """Return the sparsity at ``step``.

    Source: M. Zhu and S. Gupta 2017, eq. 1.
    """
    done = min(1.0, step / max(1.0, steps * RAMP_SHARE))
    return end + (start - end) * (1 - done) ** 3


def prepared(model: nn.Module, treated: Treated) -> Callable[[], None]:
    """Put a step counter and the masks into the model's buffers; the function that is returned takes them out.

    They live in the state dict while training lasts: a fitting that is continued after a kill finds them there.
    """
    names = [COUNTER, *(buffer_of(index) for index in range(len(treated(model))))]
    model.register_buffer(COUNTER, torch.zeros((), dtype=torch.long))
    for name, weight in zip(names[1:], treated(model).values(), strict=True):
        model.register_buffer(name, weight.detach() == 0)

    def removed() -> None:
        for name in names:
            delattr(model, name)

    return removed


def buffer_of(index: int) -> str:
    """Name the buffer that holds the mask of the weight at this place."""
    return f"{COUNTER}_{index}"


def cutter(ramp: Ramp, treated: Treated) -> Callable[[nn.Module], None]:
    """Return what is to be called after each optimizer step: it cuts when it is time, and keeps zeros zero."""

    @torch.no_grad()
    def after_step(model: nn.Module) -> None:
        counter = model.get_buffer(COUNTER)
        counter += 1
        step, weights = int(counter), treated(model)
        zeros = {name: model.get_buffer(buffer_of(index)) for index, name in enumerate(weights)}
        if step == ramp.last or (step < ramp.last and step % ramp.every == 0):
            # What was cut ranks lowest, so that the count of zeros includes it.
            magnitudes = {name: weight.abs().masked_fill(zeros[name], -1) for name, weight in weights.items()}
            for name, mask in lowest(magnitudes, ramp.wanted(step), ramp.scope).items():
                zeros[name].logical_or_(mask)
            for name, weight in weights.items():
                exchange(weight, zeros[name], ramp.exchanged(step))
        for name, weight in weights.items():
            weight.masked_fill_(zeros[name], 0)

    return after_step


def exchange(weight: nn.Parameter, zeros: Tensor, share: float) -> None:
    """Let the smallest weights go for as many zeros on which the loss pulls hardest; those start again from zero.

    The optimizer keeps what it remembers of them. Each weight matrix keeps its number of zeros.

    Source: U. Evci et al. 2020, §3, "Drop criterion" and "Grow criterion"; after each cut of a gradual schedule: S. Liu
        et al., Sparse Training via Boosting Pruning Plasticity with Neuroregeneration, NeurIPS 2021, §4. We depart in
        that a weight that goes cannot come back in the same exchange.
    """
    if share == 0 or weight.grad is None:
        return
    there, gone = int((~zeros).sum()), int(zeros.sum())
    count = min(math.floor(share * there), gone)
    if count == 0:
        return
    pull = weight.grad.abs().masked_fill(~zeros, -1).flatten()
    back = lowest_of(-pull, count / len(pull)).view(zeros.shape)
    size = weight.detach().abs().masked_fill(zeros, math.inf).flatten()
    leave = lowest_of(size, count / len(size)).view(zeros.shape)
    zeros.logical_or_(leave).logical_and_(~back)
    weight.masked_fill_(back, 0)
