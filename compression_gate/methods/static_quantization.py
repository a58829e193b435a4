"""Integer weights and integer activations, their ranges found by running calibration data through the model."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.options import not_one_of, outside, refuse
from compression_gate.modules.quantized import (
    LEVELS,
    SMALLEST_RANGE,
    QuantizedLayer,
    by_channel,
    largest_integer,
    quantized_type_of,
)
from compression_gate.tasks.calling import call

BINS = 2048
BATCH_SIZE = 128
SHRINKS = tuple(share / 100 for share in range(30, 101))  # ranges tried by mse: 30 % to all of what was seen
OWN_LOOPS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
FUSED_NORMS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d}
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class StaticQuantization:
    """Round the weights of linear and convolution layers to integers, and their inputs to 8 bits.

    Args:
        bits: of the weights, 2 to 8; activations have 8.
        granularity: one scale for each output channel, or one for the layer.
        symmetric: weights lie around zero, which is the only form that runtimes multiply fast.
        calibration: how activation ranges are set: everything seen; all but the outermost share; or the range with
            the least squared rounding error, which is then used for the weights' scales too.
        percentile: share of the activations that ``percentile`` keeps, in percent.
    """

    effect: ClassVar[Effect] = "integer_weights"

    bits: int = 8
    granularity: Literal["per_channel", "per_tensor"] = "per_channel"
    symmetric: bool = True
    calibration: Literal["minmax", "percentile", "mse"] = "minmax"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        refuse(
            outside("bits", self.bits, 2, 8) if whole else f"bits: expected a whole number, got {self.bits!r}",
            not_one_of("granularity", self.granularity, ("per_channel", "per_tensor")),
            None
            if self.symmetric is True
            else f"symmetric: expected true, got {self.symmetric!r}: weights lie around 0",
            not_one_of("calibration", self.calibration, ("minmax", "percentile", "mse")),
            outside("percentile", self.percentile, 50, 100, open_="["),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy whose linear and convolution layers are integer layers.

        Raises:
            CompressionError: no such layer, or the model's activations are not finite.
        """
        model = folded(copy.deepcopy(model).eval())
        layers = self.treatable(model, context)
        seen = {name: Seen() for name in layers}
        for record in ("bounds", "histogram"):
            if record == "bounds" or self.calibration != "minmax":
                with watching(layers, seen, record), torch.no_grad():
                    for batch in context.task.batches("calibration", BATCH_SIZE):
                        call(model, batch.inputs)
        for name, layer in layers.items():
            if not seen[name].input.count:
                context.notes.uncovered[name] = "never called with the calibration data"
                continue
            model = replaced(model, layer, self.quantized(name, layer, seen[name]))
            context.notes.covered.append(name)
        if not context.notes.covered:
            raise CompressionError(
                f"static_quantization: expected linear or convolution layers, got none that can be treated in "
                f"{type(model).__name__}: {reasons(context.notes.uncovered)}"
            )
        return model

    def treatable(self, model: nn.Module, context: Context) -> dict[str, nn.Module]:
        """Layers that can become integer layers, by name; the others with weights go to the notes."""
        layers: dict[str, nn.Module] = {}
        inside: list[str] = []
        for name, module in model.named_modules():
            if any(name.startswith(prefix) for prefix in inside):
                continue
            if isinstance(module, QuantizedLayer):
                context.notes.uncovered[name] = "holds integers already"
            elif isinstance(module, OWN_LOOPS):
                inside.append(f"{name}." if name else "")
                context.notes.uncovered[name] = f"{type(module).__name__} reads its weights directly: left in float"
            elif (reason := why_not(module)) is not None:
                context.notes.uncovered[name] = reason
            elif quantized_type_of(module):
                layers[name] = module
        return layers

    def quantized(self, name: str, layer: nn.Module, seen: Seen) -> QuantizedLayer:
        """The integer form of one layer."""
        kind = quantized_type_of(layer)
        assert kind is not None  # treatable() chose it
        for which, values in (("input", seen.input), ("output", seen.output)):
            if not (torch.isfinite(torch.tensor([values.low, values.high])).all()):
                raise CompressionError(
                    f"static_quantization: {name}: expected finite activations on the calibration data, got "
                    f"{values.low} to {values.high} at its {which}: look at the weights and the data"
                )
        return kind.from_float(
            layer,
            bits=self.bits,
            input_range=self.range_of(seen.input),
            output_range=self.range_of(seen.output),
            weight_limit=self.weight_limit(layer.get_parameter("weight").detach()),
        )

    def range_of(self, values: Values) -> Range:
        """The range of activations to be represented."""
        if self.calibration == "percentile":
            return values.percentile(self.percentile)
        if self.calibration == "mse":
            return values.least_squares()
        return values.low, values.high

    def weight_limit(self, weight: Tensor) -> Tensor:
        """Magnitude that the largest integer stands for: ``(O,)`` per channel, ``(1,)`` per tensor.

        With ``mse`` the one, of those tried, with the least squared error; else the largest weight.
        """
        rows = weight.flatten(1) if self.granularity == "per_channel" else weight.reshape(1, -1)
        largest = rows.abs().amax(1).clamp_min(SMALLEST_RANGE)
        if self.calibration != "mse":
            return largest
        levels = largest_integer(self.bits)
        best, least = largest, torch.full_like(largest, float("inf"))
        for share in SHRINKS:
            scale = by_channel(largest * share / levels, 2)
            error = (((rows / scale).round().clamp(-levels, levels) * scale - rows) ** 2).sum(1)
            best = torch.where(error < least, largest * share, best)
            least = torch.minimum(error, least)
        return best


class Values:
    """What passed one place of the model: bounds, then a histogram between them; nothing else is kept."""

    def __init__(self) -> None:
        self.count, self.low, self.high = 0, 0.0, 0.0
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

    def percentile(self, percent: float) -> Range:
        """The range without the outermost ``100 − percent`` percent, half of it on either side; zero stays inside."""
        width = (self.high - self.low) / BINS
        share = self.histogram.cumsum(0) / self.histogram.sum().clamp_min(1)
        cut = (1 - percent / 100) / 2
        low = self.low + width * int((share <= cut).sum())
        high = self.low + width * int((share < 1 - cut).sum() + 1)
        return min(low, 0.0), max(min(high, self.high), 0.0)

    def least_squares(self) -> Range:
        """The range, of those tried, whose rounding errors have the least sum of squares over the histogram.

        Source: R. Banner et al., Post training 4-bit quantization of convolutional networks, NeurIPS 2019, §3, whose
        closed form for a bell-shaped density is replaced by a search over the values that were seen.
        """
        width = (self.high - self.low) / BINS
        middles = self.low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
        best, least = (self.low, self.high), float("inf")
        for share in SHRINKS:
            low, high = self.low * share, self.high * share
            scale = max(high - low, SMALLEST_RANGE) / LEVELS
            zero = round(-low / scale)
            levels = ((middles / scale).round() + zero).clamp(0, LEVELS)
            error = float((self.histogram * ((levels - zero) * scale - middles) ** 2).sum())
            if error < least:
                best, least = (low, high), error
        return best


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What went into a layer and what came out of it."""

    input: Values = field(default_factory=Values)
    output: Values = field(default_factory=Values)


@contextmanager
def watching(layers: dict[str, nn.Module], seen: dict[str, Seen], record: str) -> Iterator[None]:
    """Record inputs and outputs of the layers while the block runs: their bounds, or histograms between these."""
    verb = "bounds" if record == "bounds" else "bins"

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


def why_not(module: nn.Module) -> str | None:
    """Why a module with weights stays in float; None if it can be treated or has none of its own."""
    kind = quantized_type_of(module)
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if kind is None:
        if isinstance(module, RECURRENT):
            return f"{type(module).__name__}: recurrent layers stay in float"
        return f"{type(module).__name__}: no integer form" if own else None
    if module._forward_hooks or module._forward_pre_hooks:
        return "has hooks that an integer layer would lose"
    if module.get_parameter("weight").dtype != torch.float32:
        return f"weights of {module.get_parameter('weight').dtype}, not float32"
    if getattr(module, "padding_mode", "zeros") != "zeros":
        return f"padding with {module.padding_mode}, not zeros"
    return None


def replaced(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Put ``new`` wherever ``old`` is, under each of its names, and return the model."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            if not name:
                return new
            model.set_submodule(name, new)
    return model


def folded(model: nn.Module) -> nn.Module:
    """Fold normalisations into the convolutions they follow, where that order is certain; the model is changed.

    Elsewhere they stay as they are, behind an integer convolution.

    Source: B. Jacob et al., CVPR 2018, §3.2 (folding of batch normalisation).
    """
    for first, second in followed_by_norm(model):
        layer: Any = model.get_submodule(first)
        norm: Any = model.get_submodule(second)
        if norm.running_mean is not None and why_not(layer) is None:
            model.set_submodule(first, nn.utils.fuse_conv_bn_eval(layer, norm))
            model.set_submodule(second, nn.Identity())
    return model


def followed_by_norm(model: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions whose output goes into one normalisation and nowhere else, with that normalisation."""
    try:
        nodes = list(torch.fx.symbolic_trace(model).graph.nodes)
    except Exception:  # noqa: BLE001  # a model whose flow depends on its values fails in any way: nothing is certain
        return []
    names = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(id(names[str(node.target)]) for node in nodes if node.op == "call_module")
    pairs = []
    for node in nodes:
        users = list(node.users)
        if node.op != "call_module" or len(users) != 1 or users[0].op != "call_module":
            continue
        first, second = names[str(node.target)], names[str(users[0].target)]
        once = calls[id(first)] == calls[id(second)] == 1
        if once and FUSED_NORMS.get(type(first)) is type(second):
            pairs.append((str(node.target), str(users[0].target)))
    return pairs


def reasons(uncovered: dict[str, str]) -> str:
    """The reasons in one line."""
    return "; ".join(f"{name or 'model'}: {reason}" for name, reason in uncovered.items()) or "it has no weights"
