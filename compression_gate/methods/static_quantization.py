"""Integer weights and integer activations, their ranges found by running calibration data through the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import nn

from compression_gate.methods.base import Context, Effect
from compression_gate.methods.budgets import budget_problems, schemes
from compression_gate.methods.calibration import Calibration, observed
from compression_gate.methods.integer_layers import (
    called_one_by_one,
    integer_form,
    refuse_none,
    replaced,
    treatable,
    with_norms_folded,
)
from compression_gate.methods.options import not_one_of, outside, refuse
from compression_gate.modules.quantized_weights import (
    FEWEST_BITS,
    MOST_BITS,
    Fit,
    Granularity,
    scheme_problems,
)


@dataclass(frozen=True, kw_only=True)
class StaticQuantization:
    """Round the weights of linear and convolution layers to integers, and their inputs to ranges found before.

    Args:
        bits: of the weights, 2 to 8.
        granularity: one scale for the layer, for each output channel, or for each group of weights of a channel.
            Runtimes multiply groups in float32; files hold their integers all the same.
        group_size: consecutive weights of an output channel that share a scale, for ``per_group``.
        symmetric: weights lie around zero, which is the form that runtimes multiply fastest.
        calibration: how activation ranges are set: everything seen; all but the outermost share; the range whose
            rounded values have the nearest density; or the one with the least squared rounding error, which is then
            used for the weights' scales too.
        percentile: share of the activations that ``percentile`` keeps, in percent.
        activation_bits: of the inputs, 2 to 8; fewer than 8 are rounded so, and then computed in 8.
        ignore: names of modules to leave in float, with everything inside them.
        budget: instead of ``bits``: mean bits of the treated weights, 2 to 8, spread over layers so that least
            is lost by the table of sensitivities.
        budget_bytes: instead of either: what the coded file may take for the whole model's tensors [bytes], spread
            likewise, by what the coder makes of each layer.
    """

    effect: ClassVar[Effect] = "integer_weights"

    bits: int = 8
    granularity: Granularity = "per_channel"
    group_size: int | None = None
    symmetric: bool = True
    calibration: Calibration = "minmax"
    percentile: float = 99.99
    activation_bits: int = 8
    ignore: tuple[str, ...] = ()
    budget: float | None = None
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        refuse(
            *budget_problems(self.budget, self.budget_bytes, self.bits),
            *scheme_problems(self.bits, self.granularity, self.group_size, self.symmetric),
            not_one_of("calibration", self.calibration, get_args(Calibration)),
            outside("percentile", self.percentile, 50, 100, open_="["),
            outside("activation_bits", self.activation_bits, FEWEST_BITS, MOST_BITS),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy whose linear and convolution layers are integer layers.

        Raises:
            CompressionError: no such layer, or the model's activations are not finite.
        """
        given = model
        model, _ = with_norms_folded(model, context, self.ignore)
        model = called_one_by_one(model, self.ignore)
        layers = treatable(model, context, inputs=("static",), ignore=self.ignore)
        seen = observed(model, layers, context, histograms=self.calibration != "minmax")
        scheme_of = schemes(self, given, context)
        fit: Fit = "mse" if self.calibration == "mse" else "minmax"
        for name, layer in layers.items():
            if not seen[name].input.count:
                context.notes.uncovered[name] = "never called with the calibration data"
                continue
            ranges = seen[name].static(
                f"static_quantization: {name}", self.calibration, self.percentile, self.activation_bits
            )
            form = integer_form("static_quantization", name, layer, scheme_of(name), fit, ranges)
            model = replaced(model, layer, form)
            context.notes.covered.append(name)
        refuse_none("static_quantization", "linear or convolution layers", model, context)
        return model
