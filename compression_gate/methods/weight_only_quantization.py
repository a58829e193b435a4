"""Integer weights, float everything else: smaller files for any layer that has a weight, no calibration needed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import nn

from compression_gate.methods.base import Context, Effect
from compression_gate.methods.budgets import budget_problems, schemes
from compression_gate.methods.integer_layers import (
    called_one_by_one,
    integer_form,
    refuse_none,
    replaced,
    treatable,
)
from compression_gate.methods.options import not_one_of, refuse
from compression_gate.modules.quantized_weights import Fit, Granularity, scheme_problems


@dataclass(frozen=True, kw_only=True)
class WeightOnlyQuantization:
    """Round the weights of linear, convolution, embedding and recurrent layers to integers; biases and norms stay.

    The weights are computed back to floats where they are used, so that the model computes as before. In memory an
    integer takes a byte; files hold it in as few bits as their format can.

    Args:
        bits: 2 to 8.
        granularity: one scale for a weight, for each output channel (each row of an embedding), or for each group.
        group_size: consecutive weights of an output channel that share a scale, for ``per_group``; 32 to 128 is usual.
        symmetric: without it every scale has a zero point beside it, and 2 bits have four values, not three.
        calibration: how scales are set: ``minmax`` by the largest weight, ``mse`` by the least squared error.
        ignore: names of modules to leave in float, with everything inside them.
        budget: instead of ``bits``: mean bits of the treated weights, 2 to 8, spread over layers so that least
            is lost by the table of sensitivities.
        budget_bytes: instead of either: what the coded file may take for the whole model's tensors [bytes], spread
            likewise, by what the coder makes of each layer.

    Source: B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, CVPR 2018, §2.1 (affine integers).
    """

    effect: ClassVar[Effect] = "integer_weights"

    bits: int = 8
    granularity: Granularity = "per_channel"
    group_size: int | None = None
    symmetric: bool = True
    calibration: Fit = "mse"
    ignore: tuple[str, ...] = ()
    budget: float | None = None
    budget_bytes: int | None = None

    def __post_init__(self) -> None:
        refuse(
            *budget_problems(self.budget, self.budget_bytes, self.bits),
            *scheme_problems(self.bits, self.granularity, self.group_size, self.symmetric),
            not_one_of("calibration", self.calibration, get_args(Fit)),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy whose layers hold integer weights.

        Raises:
            CompressionError: no layer can hold them, or weights are not finite.
        """
        given = model
        model = called_one_by_one(copy.deepcopy(model).eval(), self.ignore)
        scheme_of = schemes(self, given, context)
        for name, layer in treatable(model, context, inputs=("float",), ignore=self.ignore).items():
            form = integer_form("weight_only_quantization", name, layer, scheme_of(name), self.calibration, "float")
            model = replaced(model, layer, form)
            context.notes.covered.append(name)
        refuse_none("weight_only_quantization", "linear, convolution, embedding or recurrent layers", model, context)
        return model
