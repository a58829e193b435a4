"""How dear a bit is while training goes on: a ramp to a given price, or whatever price leads to a given size."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compression_gate.codec.coded_size import coded_bytes
from compression_gate.methods.priced_weights import PLAIN, Priced, filled, matrices_of

log = logging.getLogger("compression_gate")
REPRICE_EVERY = 50  # steps: counting all places anew takes about two steps' time
CONTROLS = 20  # how often the real coder is asked until the zeros are frozen,
FAR = 0.03  # and whenever a size without a target moved by this share since: the estimate is off by a third of it or so
RAMP_SHARE = 0.5  # of the training: the price is full from there on
PLANNED_SHARE = 0.9  # of the time until the zeros are frozen: then the size is to be the target by its price alone
HELD_SHARE = 0.8  # of that time: from here on the cut between zeros and others is where the coder says the target, so
# that weights which it lets in or takes out have time to learn
PLANNED_POWER = 3  # the logarithm of the size is planned to fall to it as (1 - time)³, which is how it falls by itself
# under a price that is kept
FIRST_STRENGTH = 0.5  # where the search for a price begins
LEAST_STRENGTH, MOST_STRENGTH = 1e-3, 300.0  # where it ends: beyond, the learning rate holds weights back
FOLLOWED, HELD = 2.0, 1.0  # change of the price's logarithm for each change of the size's distance from its plan, and
# for the distance itself: a size follows its price late, so that the distance alone would make both swing
MOST_CHANGE = 0.8  # at one time
FIXED_SHARE = 0.7  # of the time behind the freeze: until then magnitudes move, and the price still follows the size
LARGEST_JUMP = 1.3  # of an estimate between two counts; beyond it the old prices stay
CUT_LOW, CUT_HIGH, CUT_TRIALS, CLOSE = 0.08, 3.0, 12, 0.002  # of cuts, in steps
NEAR_ENOUGH = 0.01  # of a target: half of what is promised


@dataclass
class RateControl:
    """Called after each step: counts prices, asks the coder, sets the strength, freezes the zeros.

    Args:
        priced: the parameters with a price.
        shell: the plain model that takes up what is learned.
        steps: of the whole training.
        frozen_from: the step from which zeros stay zeros.
        strength: the full price in units of :attr:`unit`; None with a target.
        target: bytes of the coded tensors; None with a strength.
        unit: loss for each bit at strength 1.
        shrink: what is done to the model at the end, before it is stored.
        removable: biases, by name, of layers whose empty rows may leave, with the name of the weight.
    """

    priced: list[Priced]
    shell: nn.Module
    steps: int
    frozen_from: int
    strength: float | None
    target: int | None
    unit: float
    shrink: Callable[[nn.Module], nn.Module] = lambda model: model
    removable: dict[str, str] = field(default_factory=dict)
    step: int = 0
    now: float = 0.0
    planned_from: float = 0.0
    distance: float = 0.0  # of the size's logarithm from its plan
    cut: float = PLAIN  # weights of matrices under so many steps are zeros
    scale: float = 1.0  # of the counted bits, so that they are the coder's bytes of last time
    seen: list[tuple[int, float, int]] = field(default_factory=list)  # step, estimate and real size [bytes]

    def __post_init__(self) -> None:
        self.now = self.strength if self.strength is not None else FIRST_STRENGTH
        for one in self.priced:
            one.rounding.reprice(one.weight)

    def state_dict(self) -> dict[str, Any]:
        """What a continued training must know."""
        bits = [one.rounding.bits for one in self.priced]
        plan = (self.planned_from, self.distance)
        own = {"step": self.step, "now": self.now, "plan": plan, "cut": self.cut, "scale": self.scale}
        return own | {"seen": self.seen, "bits": bits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.step, self.now = state["step"], state["now"]
        self.planned_from, self.distance = state["plan"]
        self.set_cut(state["cut"])
        self.scale = state["scale"]
        self.seen = [(int(step), float(guess), int(real)) for step, guess, real in state["seen"]]
        for one, bits in zip(self.priced, state["bits"], strict=True):
            one.rounding.bits = bits

    @property
    def every(self) -> int:
        """Steps between two sizes from the coder."""
        return max(1, self.frozen_from // CONTROLS)

    @property
    def fixed_from(self) -> int:
        """The step from which, with a target, integers stay as they are."""
        return self.frozen_from + max(1, round(FIXED_SHARE * (self.steps - self.frozen_from)))

    @property
    def counted(self) -> float:
        """What the counts of places say that the priced tensors take [bytes]."""
        return sum(one.rounding.bits for one in self.priced) / 8

    @property
    def estimated_bytes(self) -> float:
        """What the coded tensors take now: the counts, corrected by how far off they were when the coder was asked."""
        return self.scale * self.counted

    @property
    def moved_far(self) -> bool:
        """Whether the size is so far from what the coder said last that the estimate should be set right."""
        return self.target is None and bool(self.seen) and abs(self.estimated_bytes / self.seen[-1][2] - 1) > FAR

    def cost(self) -> Tensor:
        """Return the price of all bits, in units of the loss; its slope is what counts."""
        ramp = 1.0 if self.target is not None else min(1.0, self.step / max(1.0, RAMP_SHARE * self.steps)) ** 2
        total = torch.stack([one.rounding.price(one.weight) for one in self.priced]).sum()
        return self.unit * self.now * ramp * total

    @torch.no_grad()
    def __call__(self, student: nn.Module) -> None:
        """Follow one step of the optimizer."""
        self.step += 1
        if self.step < self.frozen_from or self.frozen_from < self.step < self.fixed_from:
            if self.step % self.every == 0:
                self.compare(student)
            elif self.step % REPRICE_EVERY == 0:
                self.reprice()
                if self.moved_far:
                    self.ask(student)
        elif self.step == self.frozen_from:
            self.freeze(student)
        elif self.step == self.fixed_from and self.target is not None:
            self.nudge(student)

    def reprice(self) -> None:
        """Count prices anew; those of a tensor whose estimate jumps stay for once."""
        for one in self.priced:
            rounding = one.rounding
            before, first, further = rounding.bits, rounding.first.clone(), rounding.further.clone()
            rounding.reprice(one.weight)
            if rounding.bits > LARGEST_JUMP * before:
                rounding.first.copy_(first)
                rounding.further.copy_(further)

    def ask(self, student: nn.Module) -> int:
        """Have the coder say what the integers take that were just counted, and set the estimate right by it."""
        # Where a target is met, dead units count as gone; following the model takes a moment.
        real = coded_bytes(filled(self.shell, student, self.priced)) if self.target is None else self.size(student)
        self.seen.append((self.step, self.estimated_bytes, real))
        self.scale = real / self.counted
        log.debug("step %d: %d bytes, strength %.3g", self.step, real, self.now)
        return real

    def compare(self, student: nn.Module) -> None:
        """Ask the coder; with a target, make bits dearer where the model is larger than planned."""
        self.set_cut(PLAIN)
        self.reprice()
        real = self.ask(student)
        if self.target is not None:
            self.steer(real, self.target)
            if HELD_SHARE * self.frozen_from <= self.step < self.frozen_from:
                self.set_cut(self.cut_for_target(student))
                self.reprice()

    def set_cut(self, cut: float) -> None:
        """Let weights of matrices under so many steps be zeros, and all others none."""
        self.cut = cut
        for one in matrices_of(self.priced):
            one.rounding.cut = cut

    def steer(self, real: int, target: int) -> None:
        """Make bits dearer where the model is larger than planned, and cheaper where it is smaller."""
        if len(self.seen) == 1:
            self.planned_from = math.log(max(real, target))
        done = min(1.0, (self.step - self.every) / max(1.0, PLANNED_SHARE * self.frozen_from - self.every))
        planned = math.log(target) + (self.planned_from - math.log(target)) * (1 - done) ** PLANNED_POWER
        distance = math.log(real) - planned
        change = FOLLOWED * (distance - self.distance) + HELD * distance
        self.distance = distance
        factor = math.exp(min(max(change, -MOST_CHANGE), MOST_CHANGE))
        self.now = min(max(self.now * factor, LEAST_STRENGTH), MOST_STRENGTH)

    def freeze(self, student: nn.Module) -> None:
        """Fix which weights are zero: those that round to it, or with a target, those that lead to its size."""
        cut = PLAIN if self.target is None else self.cut_for_target(student)
        log.debug("step %d: weights under %.3g steps stay zeros", self.step, cut)
        self.settle(cut)
        for one in self.priced:
            one.rounding.reprice(one.weight)

    def settle(self, cut: float) -> None:
        """Freeze all with the weights under ``cut`` steps as zeros."""
        for one in self.priced:
            one.rounding.live.copy_(self.kept(one, cut))
        for bias, weight in self.removable.items():
            self.silence(bias, weight)
        for one in self.priced:
            one.rounding.frozen.fill_(True)

    @staticmethod
    def kept(one: Priced, cut: float) -> Tensor:
        """Return what stays when weights under ``cut`` steps become zero; single numbers round as ever."""
        return one.rounding.scaled(one.weight).abs() >= (cut if one.weight.dim() > 1 else PLAIN)

    def cut_for_target(self, student: nn.Module) -> float:
        """Return the cut with which the coder says the target, by bisection."""
        assert self.target is not None
        before = [one.rounding.live.clone() for one in self.priced]
        low, high, cut = CUT_LOW, CUT_HIGH, PLAIN
        for _ in range(CUT_TRIALS):
            cut = math.sqrt(low * high)
            self.settle(cut)
            real = self.size(student)
            for one, live in zip(self.priced, before, strict=True):
                one.rounding.frozen.fill_(False)
                one.rounding.live.copy_(live)
            if abs(real / self.target - 1) <= CLOSE:
                break
            low, high = (cut, high) if real > self.target else (low, cut)
        return cut

    def size(self, student: nn.Module) -> int:
        """Return the bytes that the coder takes for the result as it would be now."""
        return coded_bytes(self.shrink(filled(self.shell, student, self.priced)))

    def nudge(self, student: nn.Module) -> None:
        """Fix the integers, at the target again where magnitudes moved away from it behind the freeze."""
        assert self.target is not None
        if abs(self.size(student) / self.target - 1) > NEAR_ENOUGH:
            self.shift_to_target(student)
        for one in matrices_of(self.priced):
            one.rounding.fix(one.weight)

    def shift_to_target(self, student: nn.Module) -> None:
        """Shift magnitudes by one number, found by bisection.

        Above zero it is added to them before they are rounded; below, it is taken off, and weights smaller than it
        become zero.
        """
        assert self.target is not None
        before = [one.rounding.live.clone() for one in self.priced]
        low, high = -1.0, 1.0
        for _ in range(CUT_TRIALS):
            middle = (low + high) / 2
            for one, live in zip(self.priced, before, strict=True):
                one.rounding.live.copy_(live)
                if one.weight.dim() > 1:
                    one.rounding.shift = middle / 2
                    one.rounding.live.copy_(live * (one.rounding.scaled(one.weight).abs() >= -middle))
            real = self.size(student)
            if abs(real / self.target - 1) <= CLOSE:
                return
            low, high = (low, middle) if real > self.target else (middle, high)

    def silence(self, bias: str, weight: str) -> None:
        """Set to zero the biases of rows without any weight: they add a constant, which training makes up for."""
        by_name = {one.name: one for one in self.priced}
        if bias in by_name and weight in by_name:
            rows = by_name[weight].rounding.live.flatten(1).any(1)
            by_name[bias].rounding.live.logical_and_(rows)

    def errors(self) -> list[float]:
        """How far off the estimate was each time but the first, when nothing had corrected it yet."""
        return [guess / real - 1 for _, guess, real in self.seen[1:]]

    def summary(self, final: int) -> list[str]:
        """Say in sentences how the estimate kept up with the coder, and where the size ended."""
        lines = [f"coded tensors: {final:,} bytes at strength {self.now:.3g}, by the coder"]
        if off := self.errors():
            lines.append(
                f"the estimate of them in training, corrected by the coder each time it was asked, was {min(off):+.1%} "
                f"to {max(off):+.1%} off the next time ({len(off)} comparisons)"
            )
        if self.target is not None and abs(final / self.target - 1) > 0.02:
            lines.append(
                f"target_bytes {self.target:,} was missed by {final / self.target - 1:+.1%}: "
                "train longer, or see which tensors are left in float"
            )
        return lines
