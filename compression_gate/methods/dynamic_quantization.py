"""Integer weights, and integer activations whose ranges are those of each call: no calibration needed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import nn

from compression_gate.methods.base import Context, Effect
from compression_gate.methods.integer_layers import (
    called_one_by_one,
    integer_form,
    refuse_none,
    replaced,
    treatable,
)
from compression_gate.methods.options import not_one_of, refuse
from compression_gate.modules.quantized_weights import Fit, Scheme, scheme_problems

Granularity = Literal["per_tensor", "per_channel"]


@dataclass(frozen=True, kw_only=True)
class DynamicQuantization:
    """Round the weights of linear layers and LSTMs to integers, and their inputs to 8 bits of their own range.

    A layer's input has one scale for the whole batch, which is what runtimes do: an answer may depend, within a
    rounding step, on the other examples of its batch.

    Args:
        bits: of the weights, 2 to 8; activations have 8.
        granularity: one scale for a weight, or for each output channel. Runtimes multiply no groups of integers.
        symmetric: weights lie around zero; without it every scale has a zero point beside it.
        calibration: how the weights' scales are set: ``minmax`` by the largest, ``mse`` by the least squared error.
        ignore: names of modules to leave in float, with everything inside them.

    Source: ONNX, operators DynamicQuantizeLinear and MatMulInteger; onnxruntime, DynamicQuantizeLSTM.
    """

    effect: ClassVar[Effect] = "integer_weights"

    bits: int = 8
    granularity: Granularity = "per_channel"
    symmetric: bool = True
    calibration: Fit = "mse"
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plausible = self.granularity if self.granularity in get_args(Granularity) else "per_channel"
        refuse(
            *scheme_problems(self.bits, plausible, None, self.symmetric),
            not_one_of("granularity", self.granularity, get_args(Granularity)),
            not_one_of("calibration", self.calibration, get_args(Fit)),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy whose linear layers and LSTMs compute on integers.

        Raises:
            CompressionError: there is no such layer, or weights are not finite.
        """
        model = called_one_by_one(copy.deepcopy(model).eval(), self.ignore)
        scheme = Scheme(bits=self.bits, granularity=self.granularity, symmetric=self.symmetric)
        for name, layer in treatable(model, context, inputs=("dynamic",), ignore=self.ignore).items():
            form = integer_form("dynamic_quantization", name, layer, scheme, self.calibration, "dynamic")
            model = replaced(model, layer, form)
            context.notes.covered.append(name)
        refuse_none("dynamic_quantization", "linear layers or LSTMs", model, context)
        return model
