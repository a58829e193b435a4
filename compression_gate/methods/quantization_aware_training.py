"""Training with rounded weights and inputs: the model learns to live with few bits, and how coarse each rounding is."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compression_gate.methods.base import Context, Effect
from compression_gate.methods.calibration import Seen, observed
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.integer_layers import (
    called_one_by_one,
    finite_weights,
    refuse_none,
    replaced,
    treatable,
    weight_names,
    with_norms_folded,
)
from compression_gate.methods.options import outside, refuse
from compression_gate.methods.teacher_answers import answering
from compression_gate.modules.learned_steps import (
    INPUT,
    RoundedInput,
    learned_weight,
    round_input,
    round_weight,
    scaled_rows,
)
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.quantized import quantized_type_of
from compression_gate.modules.quantized_layer import QuantizedLayer, StaticInput
from compression_gate.modules.quantized_weights import (
    FEWEST_BITS,
    MOST_BITS,
    Granularity,
    IntegerWeight,
    Scheme,
    quantized_weight,
    scheme_problems,
)
from compression_gate.modules.surgery import state_digest
from compression_gate.tasks.task import Batch
from compression_gate.tasks.training import Fitting, StepLoss, device_of, fit

LESSON = Distillation(temperature=4.0, alpha=0.7)


@dataclass(frozen=True, kw_only=True)
class QuantizationAwareTraining:
    """Train with weights and inputs rounded as the integer layers will round them, steps learned beside the weights.

    Linear and convolution layers round weights and inputs, embeddings and recurrent layers their weights. A norm
    behind a convolution is trained as a norm; at the end its scale goes into the scales of the integers, which
    stay. With one scale a layer there is no room for that, and it is folded before.

    Args:
        bits: of the weights, 2 to 8; they lie around zero.
        activation_bits: of the inputs, 2 to 8; none leaves them in float.
        granularity: one learned step for a weight, for each output channel, or for each group.
        group_size: consecutive weights of an output channel that share a step, for ``per_group``.
        epochs: of training; data, batch size, schedule and augmentation are those of ``train``.
        learning_rate: the highest of the schedule; the default is a third of the training's.
        distill: learn from the reference's answers too, seven parts to three of the task's own loss.
        ignore: names of modules to leave in float, with everything inside them.

    Source: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020; see ``modules.learned_steps`` for departures.
        R. Krishnamoorthi, Quantizing deep convolutional networks for efficient inference, 2018, §3.2 (norms), where
        they are folded while training; here rounding comes before the norm, which needs no correction.
    """

    effect: ClassVar[Effect] = "integer_weights"

    bits: int = 4
    activation_bits: int | None = 8
    granularity: Granularity = "per_channel"
    group_size: int | None = None
    epochs: int = 2
    learning_rate: float | None = None
    distill: bool = False
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse(
            *scheme_problems(self.bits, self.granularity, self.group_size, True),
            outside("activation_bits", self.activation_bits, FEWEST_BITS, MOST_BITS),
            outside("epochs", self.epochs, 1),
            outside("learning_rate", self.learning_rate, 0, open_="["),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a trained copy of ``model`` whose layers are integer layers with the learned ranges.

        Raises:
            CompressionError: there is no layer to treat, or weights or activations are not finite.
        """
        student = called_one_by_one(copy.deepcopy(model).eval(), self.ignore)
        folded, norms = with_norms_folded(student, context, self.ignore)
        if self.granularity == "per_tensor":
            student, norms = folded, {}
        kinds = ("static", "float") if self.activation_bits else ("float",)
        layers = treatable(student, context, inputs=kinds, ignore=self.ignore)
        types = {name: quantized_type_of(layer) for name, layer in layers.items()}
        for norm in norms.values():
            context.notes.uncovered.pop(norm, None)
        seen = self.seen(student, layers, context)
        zeros = zeros_of(student)
        self.prepare(layers, seen, context)
        refuse_none("quantization_aware_training", "layers with weights", model, context)
        self.train(student, zeros, context)
        for name in context.notes.covered:
            layer, kind = layers[name], types[name]
            assert kind is not None  # treatable() chose it
            student = replaced(student, layer, integer_layer(student, layer, kind, norms.get(name)))
        self.note_outputs(student, context)
        return student.eval()

    def seen(self, student: nn.Module, layers: dict[str, nn.Module], context: Context) -> dict[str, Seen]:
        """What goes into the layers that round it, before training."""
        rounding = {name: layer for name, layer in layers.items() if self.rounds_input(layer)}
        return observed(student, rounding, context, histograms=True) if rounding else {}

    def rounds_input(self, layer: nn.Module) -> bool:
        """Whether a layer's integer form has ranges for its input."""
        kind = quantized_type_of(layer)
        return self.activation_bits is not None and kind is not None and "static" in kind.input_kinds

    def prepare(self, layers: dict[str, nn.Module], seen: dict[str, Seen], context: Context) -> None:
        """Have the layers round what they compute with, from steps of the least squared error on."""
        scheme = Scheme(bits=self.bits, granularity=self.granularity, group_size=self.group_size)
        for name, layer in layers.items():
            if name in seen and not seen[name].input.count:
                context.notes.uncovered[name] = "never called with the calibration data"
                continue
            finite_weights("quantization_aware_training", name, layer)
            rounding = None
            if name in seen:
                values = seen[name].input
                static = seen[name].static(
                    f"quantization_aware_training: {name}", "mse", 100, self.activation_bits or MOST_BITS
                )
                each = values.count // max(len(context.task.split("calibration")), 1)
                rounding = RoundedInput(static.scale, static.zero_point, static.bits, each)
            for weight in weight_names(layer):
                round_weight(layer, weight, quantized_weight(layer.get_parameter(weight), scheme, "mse"))
            if rounding is not None:
                round_input(layer, rounding)
            context.notes.covered.append(name)

    def train(self, student: nn.Module, zeros: Any, context: Context) -> None:
        """Train weights and steps in place."""
        rate = self.learning_rate or context.train.learning_rate / 3
        fitting = Fitting(
            options=context.train.model_copy(update={"epochs": self.epochs, "learning_rate": rate}),
            loss=taught(context) if self.distill else None,
            after_step=keeper(zeros),
            checkpoint=context.checkpoint,
            label="quantization_aware_training",
            key=f"{self} {state_digest(student)} {state_digest(context.reference)}",
        )
        context.notes.remark_frozen(student)
        context.notes.add_curve("quantization_aware_training", fit(student, context.task, fitting))

    def note_outputs(self, model: nn.Module, context: Context) -> None:
        """Give the integer layers the range of their outputs, which files round to between layers."""
        made = dict(model.named_modules())
        layers = {
            name: made[name]
            for name in context.notes.covered
            if isinstance(made[name], QuantizedLayer) and made[name].inputs == "static"
        }
        for name, seen in (observed(model, layers, context, histograms=False) if layers else {}).items():
            ranges = seen.static(f"quantization_aware_training: {name}", "minmax", 100, MOST_BITS)
            layers[name].output_low = torch.tensor(ranges.output_low, dtype=torch.float32)
            layers[name].output_high = torch.tensor(ranges.output_high, dtype=torch.float32)


@torch.no_grad()
def integer_layer(
    model: nn.Module, layer: nn.Module, kind: type[QuantizedLayer], norm_name: str | None
) -> QuantizedLayer:
    """Return what a layer learned as integers; the norm behind it, in ``model``, goes into it."""
    names = list(layer.parametrizations)  # type: ignore[arg-type]  # a ModuleDict, by name of the weight
    weights: dict[str, IntegerWeight] = {name: learned_weight(layer, name) for name in names}
    rounding = getattr(layer, INPUT, None)
    for name in names:
        parametrize.remove_parametrizations(layer, name, leave_parametrized=False)
    if norm_name is not None:
        norm: Any = model.get_submodule(norm_name)
        weights = {"weight": with_norm(layer, weights["weight"], norm)}
        model.set_submodule(norm_name, nn.Identity())
    if rounding is None:
        return kind.from_float(layer, weights, "float")
    static = StaticInput(
        scale=float(rounding.step()),
        zero_point=int(rounding.zero_point),
        output_low=0.0,
        output_high=0.0,
        bits=rounding.bits,
    )
    return kind.from_float(layer, weights, static)


def with_norm(layer: Any, weight: IntegerWeight, norm: Any) -> IntegerWeight:
    """Multiply a norm into a convolution's scales, and put its shift into the bias, in place."""
    factors = (norm.running_var + norm.eps).rsqrt()
    factors = factors if norm.weight is None else factors * norm.weight
    bias = torch.zeros_like(factors) if layer.bias is None else layer.bias
    shift = (bias - norm.running_mean) * factors
    layer.bias = nn.Parameter(shift if norm.bias is None else shift + norm.bias)
    return scaled_rows(weight, factors)


def taught(context: Context) -> StepLoss:
    """Return the loss of one batch: the reference's answers beside the task's own."""
    ask = answering(copy.deepcopy(context.reference).eval(), (), context, device_of(context.train))
    classes = context.task.params.kind == "classification"

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        return LESSON.combined(outputs, ask(batch).outputs, batch, context, classes=classes)

    return loss
