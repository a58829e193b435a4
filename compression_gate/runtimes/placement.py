"""Where integers end: in how many bits a file holds them, and whether its runtime multiplies them as such."""

from __future__ import annotations

from torch import nn

from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.quantized_weights import FEWEST_BITS, MOST_BITS, held_bits

CODED = "coded"
NARROWEST = {"onnxruntime": 2, "openvino": 4, "torch": 8}  # bits of the narrowest integers that a runtime reads


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


def integer_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The layers that hold integers, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLayer)}
