"""Integer layers while a model is traced for ONNX: opaque nodes, which no optimisation of the exporter can fold.

A layer with float inputs runs as torch's own operators on weights that are one node each. A layer that rounds its
inputs is one node as a whole. Afterwards the nodes are replaced by what they stand for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from compression_gate.errors import ExportError
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.quantized_recurrent import QuantizedLSTM

DOMAIN = "compression_gate"


class Reader:
    """Reads a layer's weights as opaque nodes; takes the place of its ``read``."""

    def __init__(self, layer: QuantizedLayer, name: str) -> None:
        self.layer, self.name = layer, name

    def __call__(self, weight: str) -> Tensor:
        """One opaque node in the weight's shape."""
        shape = tuple(getattr(self.layer, f"{weight}_integers").shape)
        output: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::Weight", (), {"layer": self.name, "weight": weight}, dtype=torch.float32, shape=shape, version=1
        )
        return output


class Placeholder(nn.Module):
    """Stands for a layer that rounds its inputs."""

    def __init__(self, layer: QuantizedLayer, name: str) -> None:
        super().__init__()
        self.layer, self.name = layer, name

    @property
    def weight(self) -> Tensor:
        """The weights, where a model reads them past the layer."""
        return Reader(self.layer, self.name)("weight")

    def forward(self, inputs: Tensor) -> Tensor:
        """One opaque node of the right shape."""
        shape = self.layer(inputs).shape
        output: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::Layer", (inputs,), {"layer": self.name}, dtype=inputs.dtype, shape=shape, version=1
        )
        return output


class LSTMPlaceholder(nn.Module):
    """Stands for an LSTM that rounds its inputs."""

    def __init__(self, layer: QuantizedLSTM, name: str) -> None:
        super().__init__()
        self.layer, self.name = layer, name
        self.batch_first, self.hidden_size, self.num_layers = layer.batch_first, layer.hidden_size, layer.num_layers
        self.input_size, self.bidirectional = layer.input_size, layer.bidirectional

    def flatten_parameters(self) -> None:
        """Do nothing; models call it on recurrent layers."""

    def forward(self, inputs: Any, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One opaque node with three outputs.

        Raises:
            ExportError: sequences that are packed, or one without a batch axis.
        """
        if isinstance(inputs, PackedSequence) or inputs.dim() != 3:
            got = "packed sequences" if isinstance(inputs, PackedSequence) else f"{inputs.dim()} axes"
            raise ExportError(
                f"model.onnx: {self.name}: expected padded sequences with a batch axis, got {got}: "
                "pack only in training"
            )
        layer = self.layer
        examples = inputs.shape[0 if layer.batch_first else 1]
        last = (layer.num_layers * layer.directions, examples, layer.hidden_size)
        outputs, hidden, cell = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::Layer",
            (inputs, *(state or ())),
            {"layer": self.name},
            dtypes=(torch.float32,) * 3,
            shapes=((*inputs.shape[:2], layer.hidden_size * layer.directions), last, last),
            version=1,
        )
        return outputs, (hidden, cell)


def opaque(model: nn.Module) -> tuple[nn.Module, dict[str, QuantizedLayer]]:
    """Make every integer layer of ``model`` opaque, in place, and return the layers by name."""
    layers: dict[str, QuantizedLayer] = {}
    made: dict[int, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, QuantizedLayer):
            continue
        if id(module) not in made:
            layers[name or "model"] = module
            made[id(module)] = stand_in(module, name or "model")
        if not name:
            return made[id(module)], layers
        model.set_submodule(name, made[id(module)])
    return model, layers


def stand_in(layer: QuantizedLayer, name: str) -> nn.Module:
    """What is traced in a layer's place."""
    if layer.inputs == "float":
        layer.read = Reader(layer, name)  # type: ignore[assignment]  # what the method is there for
        return layer
    return LSTMPlaceholder(layer, name) if isinstance(layer, QuantizedLSTM) else Placeholder(layer, name)
