"""Ranges of activations, found by running calibration data through the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context
from compression_gate.modules.quantized_layer import StaticInput, affine, levels_of, step_between
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import seeded

BINS = 2048
BATCH_SIZE = 128
SHRINKS = tuple(share / 100 for share in range(10, 101))  # ranges tried: 10 % to all of what was seen
RARE = 1e-4  # share of the values that stands for none: a logarithm of zero would end every comparison
Range = tuple[float, float]
Calibration = Literal["minmax", "percentile", "entropy", "mse"]


class Values:
    """What passed one place of the model: bounds, then a histogram between them; nothing else is kept."""

    def __init__(self) -> None:
        self.count, self.low, self.high = 0, 0.0, 0.0
        self.zeros = 0
        self.histogram = torch.zeros(BINS, dtype=torch.float64)

    def bounds(self, values: Tensor) -> None:
        """Widen the bounds; both lie around zero, which every range must hold."""
        low, high = torch.aminmax(values.detach().float())
        self.count += values.numel()
        # A NaN compares false with everything: it must win, to be found later.
        self.low = float(torch.minimum(low, torch.tensor(self.low)))
        self.high = float(torch.maximum(high, torch.tensor(self.high)))

    def bins(self, values: Tensor) -> None:
        """Count values into bins of equal width between the bounds."""
        if self.high > self.low:
            found = torch.histc(values.detach().float(), bins=BINS, min=self.low, max=self.high)
            self.histogram += found.double()
            self.zeros += int((values == 0).sum())

    def range_of(self, calibration: Calibration, percent: float, bits: int) -> Range:
        """The range to be represented."""
        if calibration == "percentile":
            return self.percentile(percent)
        if calibration == "mse":
            return self.least(self.squares, bits)
        if calibration == "entropy":
            return self.least(self.divergence, bits)
        return self.low, self.high

    def percentile(self, percent: float) -> Range:
        """The range without the outermost ``100 − percent`` percent, half of it on either side; zero stays inside."""
        width = (self.high - self.low) / BINS
        share = self.histogram.cumsum(0) / self.histogram.sum().clamp_min(1)
        cut = (1 - percent / 100) / 2
        low = self.low + width * int((share <= cut).sum())
        high = self.low + width * int((share < 1 - cut).sum() + 1)
        return min(low, 0.0), max(min(high, self.high), 0.0)

    def least(self, loss: Callable[[Tensor, Tensor], float], bits: int) -> Range:
        """The range, of those tried, that loses least by rounding; both ends shrink alike."""
        best, least = (self.low, self.high), float("inf")
        middles = self.middles()
        for share in SHRINKS:
            low, high = self.low * share, self.high * share
            scale = step_between(low, high, bits)
            zero = round(-low / scale)
            steps = ((middles / scale).round() + zero).clamp(0, levels_of(bits))
            lost = loss((steps - zero) * scale, (middles >= low) & (middles <= high))
            if lost < least:
                best, least = (low, high), lost
        return best

    def middles(self) -> Tensor:
        """The value that each bin stands for."""
        width = (self.high - self.low) / BINS
        return self.low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)

    def bin_of_zero(self) -> int:
        """The bin that zeros were counted into."""
        return int(torch.histc(torch.zeros(1), bins=BINS, min=self.low, max=self.high).argmax())

    def squares(self, rounded: Tensor, inside: Tensor) -> float:
        """Sum of squared rounding errors over the histogram.

        Source: R. Banner et al., Post training 4-bit quantization of convolutional networks, NeurIPS 2019, §3, whose
        closed form for a bell-shaped density is replaced by a search over the values that were seen.
        """
        return float((self.histogram * (rounded - self.middles()) ** 2).sum())

    def divergence(self, rounded: Tensor, inside: Tensor) -> float:
        """Kullback-Leibler divergence, in nats, of the rounded values' density from that of the values.

        Args:
            rounded: the value that each bin is rounded to ``(BINS,)``.
            inside: whether a bin lies inside the range; what lies outside is counted at the range's ends.

        Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017: rounded mass is spread evenly over the bins of a
        level that are not empty; what was cut off is in the density of the values alone, which is what cutting costs.
        Departures: ranges need not be symmetric; exact zeros, which every range represents exactly, do not count, since
        half of what a ReLU gives would else decide.
        """
        seen = self.histogram.clone()
        seen[self.bin_of_zero()] -= self.zeros
        within = seen * inside
        if not bool(within.any()):
            return float("inf")
        places = inside.nonzero().flatten()
        values = within.clone()
        values[places[0]] += seen[: int(places[0])].sum()
        values[places[-1]] += seen[int(places[-1]) + 1 :].sum()
        levels, index = torch.unique(rounded, return_inverse=True)
        empty = torch.zeros(len(levels), dtype=torch.float64)
        count = empty.index_add(0, index, (within > 0).double()).clamp_min(1)
        spread = (empty.index_add(0, index, within) / count)[index] * (within > 0)
        first, second = values / values.sum(), (spread / spread.sum()).clamp_min(RARE / BINS)
        full = first > 0
        return float((first[full] * (first[full] / second[full]).log()).sum())


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What went into a layer and what came out of it."""

    input: Values = field(default_factory=Values)
    output: Values = field(default_factory=Values)

    def static(self, name: str, calibration: Calibration, percent: float, bits: int) -> StaticInput:
        """The layer's ranges.

        Raises:
            CompressionError: activations were not finite.
        """
        for which, values in (("input", self.input), ("output", self.output)):
            if not torch.isfinite(torch.tensor([values.low, values.high])).all():
                raise CompressionError(
                    f"{name}: expected finite activations on the calibration data, got "
                    f"{values.low} to {values.high} at its {which}: look at the weights and the data"
                )
        scale, zero_point = affine(*self.input.range_of(calibration, percent, bits), bits)
        low, high = self.output.range_of(calibration, percent, 8)
        return StaticInput(scale=scale, zero_point=zero_point, output_low=low, output_high=high, bits=bits)


@torch.no_grad()
def observed(model: nn.Module, layers: dict[str, nn.Module], context: Context, *, histograms: bool) -> dict[str, Seen]:
    """Run the calibration split through ``model`` and return what each layer saw; twice where histograms are asked."""
    seen = {name: Seen() for name in layers}
    for verb in ("bounds", "bins") if histograms else ("bounds",):
        with watching(layers, seen, verb), seeded(context.train.seed):
            for batch in context.task.batches("calibration", BATCH_SIZE):
                call(model, batch.inputs)
    return seen


@contextmanager
def watching(layers: dict[str, nn.Module], seen: dict[str, Seen], verb: str) -> Iterator[None]:
    """Record inputs and outputs of the layers while the block runs: their bounds, or histograms between these."""

    def hook_for(own: Seen) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            getattr(own.input, verb)(inputs[0])
            getattr(own.output, verb)(output)

        return hook

    handles: list[RemovableHandle] = []
    try:
        handles = [layer.register_forward_hook(hook_for(seen[name])) for name, layer in layers.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()
