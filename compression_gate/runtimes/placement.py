"""Where integers end: in how many bits a file holds them, and whether its runtime multiplies them as such."""

from __future__ import annotations

from torch import nn

from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.quantized_recurrent import QuantizedLSTM
from compression_gate.modules.quantized_weights import FEWEST_BITS, MOST_BITS, held_bits

CODED = "coded"
NARROWEST = {"onnxruntime": 2, "openvino": 4, "torch": 8}  # bits of the narrowest integers that a runtime reads
# Kinds of inputs with which a runtime multiplies integers; elsewhere it makes floats of them.
MULTIPLIED = {"onnxruntime": {"static", "dynamic"}, "openvino": {"static"}, "torch": set[str]()}


def narrowest_bits(runtime: str, file_format: str) -> int:
    """Bits of the narrowest integers in the file that ships; a byte in that of a runtime that nothing is known of."""
    return FEWEST_BITS if file_format == CODED else NARROWEST.get(runtime, MOST_BITS)


def widened_lines(model: nn.Module, runtime: str, file_format: str) -> list[str]:
    """Bits of the model's layers that the file has no type for, each with the bits that it takes instead."""
    if file_format == CODED or runtime not in NARROWEST:
        return []
    found = sorted({layer.bits for layer in integer_layers(model).values()})
    return [
        f"integers of {bits} bits take {held} each in {file_format} files for {runtime}"
        for bits in found
        if (held := held_bits(bits, NARROWEST[runtime])) != bits
    ]


def integer_lines(model: nn.Module, runtime: str, file_format: str) -> list[str]:
    """Where the integers of each layer are held and what they are computed as; layers alike share a line."""
    alike: dict[tuple[str, int, str], list[str]] = {}
    for name, layer in integer_layers(model).items():
        kind = layer.float_type.__name__
        alike.setdefault((kind, layer.bits, fate(layer, runtime)), []).append(name or "the model")
    return [
        f"{kind} {', '.join(names)}: integers of {bits} bits in the {file_format} file, {what}"
        for (kind, bits, what), names in alike.items()
    ]


def fate(layer: QuantizedLayer, runtime: str) -> str:
    """What a runtime makes of a layer's integers when it is called.

    Groups have a scale each, which no operator on integers knows, nor has OpenVINO one for weights with zero points.
    """
    if runtime not in MULTIPLIED:
        return f"computed by {runtime}"
    symmetric_only = runtime == "openvino" and not layer.scheme.symmetric
    grouped = layer.scheme.granularity == "per_group"
    if layer.inputs not in MULTIPLIED[runtime] or grouped or symmetric_only:
        return f"computed in float32 in {runtime}"
    operator = " (DynamicQuantizeLSTM)" if isinstance(layer, QuantizedLSTM) else ""
    processor = " where the processor has VNNI" if runtime == "openvino" else ""
    return f"multiplied as such in {runtime}{operator}{processor}"


def integer_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The layers that hold integers, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLayer)}
