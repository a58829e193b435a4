"""Recurrent layers on integer weights; called as ``nn.LSTM`` and ``nn.GRU`` are, packed sequences included."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from compression_gate.errors import CompressionError
from compression_gate.modules.quantized_layer import QuantizedLayer, rounded_to_own_range
from compression_gate.modules.quantized_weights import Granularity

State = Any  # (h, c) of an LSTM, h of a GRU


class QuantizedRecurrent(QuantizedLayer):
    """What LSTM and GRU share: ``(N, T, I)`` or ``(T, N, I)`` to outputs and the last state.

    With dynamic inputs a layer's whole input sequence is rounded to its range, and the hidden state anew at each
    step; as DynamicQuantizeLSTM of onnxruntime does.
    """

    gates: ClassVar[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        bits: int = 8,
        granularity: Granularity = "per_channel",
        group_size: int | None = None,
        symmetric: bool = True,
        inputs: str = "float",
        input_bits: int = 8,
    ) -> None:
        directions = 2 if bidirectional else 1
        rows = self.gates * hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        biases: dict[str, int | None] = {}
        for layer in range(num_layers):
            for suffix in suffixes(layer, directions):
                width = input_size if layer == 0 else hidden_size * directions
                shapes |= {f"weight_ih_{suffix}": (rows, width), f"weight_hh_{suffix}": (rows, hidden_size)}
                if bias:
                    biases |= {f"bias_ih_{suffix}": rows, f"bias_hh_{suffix}": rows}
        super().__init__(
            shapes,
            biases,
            bits=bits,
            granularity=granularity,
            group_size=group_size,
            symmetric=symmetric,
            inputs=inputs,
            input_bits=input_bits,
        )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional

    @classmethod
    def sizes_of(cls, layer: Any) -> dict[str, Any]:
        """Sizes of a recurrent layer."""
        return {
            "input_size": layer.input_size,
            "hidden_size": layer.hidden_size,
            "num_layers": layer.num_layers,
            "bias": layer.bias,
            "batch_first": layer.batch_first,
            "dropout": float(layer.dropout),
            "bidirectional": layer.bidirectional,
        }

    @classmethod
    def why_not(cls, layer: Any) -> str | None:
        """ONNX knows no projection of the hidden state."""
        return None if getattr(layer, "proj_size", 0) == 0 else "a projected hidden state has no integer form"

    @property
    def directions(self) -> int:
        """1, or 2 where both are taken."""
        return 2 if self.bidirectional else 1

    def flatten_parameters(self) -> None:
        """Do nothing; models call it on recurrent layers."""

    def flat_weights(self) -> list[Tensor]:
        """Weights as floats and biases, in the order torch's own layers have them."""
        flat: list[Tensor] = []
        for layer in range(self.num_layers):
            for suffix in suffixes(layer, self.directions):
                flat += [self.read(f"weight_ih_{suffix}"), self.read(f"weight_hh_{suffix}")]
                if self.bias:
                    flat += [getattr(self, f"bias_ih_{suffix}"), getattr(self, f"bias_hh_{suffix}")]
        return flat

    def forward(self, inputs: Any, state: State = None) -> tuple[Any, State]:
        """Run over the sequence; without a state it starts at zero."""
        if isinstance(inputs, PackedSequence):
            return self.over_packed(inputs, state)
        batched = inputs.dim() == 3
        if not batched:
            inputs = inputs.unsqueeze(0 if self.batch_first else 1)
            state = None if state is None else mapped(state, lambda value: value.unsqueeze(1))
        if state is None:
            state = self.zero_state(inputs, inputs.shape[0 if self.batch_first else 1])
        outputs, state = self.over(inputs, state)
        if batched:
            return outputs, state
        return outputs.squeeze(0 if self.batch_first else 1), mapped(state, lambda value: value.squeeze(1))

    def zero_state(self, inputs: Tensor, examples: int) -> State:
        """The state before the first step."""
        return inputs.new_zeros(self.num_layers * self.directions, examples, self.hidden_size)

    def over(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over sequences of one length."""
        first, *last = self.kernel()(
            inputs,
            state,
            self.flat_weights(),
            self.bias,
            self.num_layers,
            0.0,
            False,
            self.bidirectional,
            self.batch_first,
        )
        return first, tuple(last) if len(last) > 1 else last[0]

    def over_packed(self, packed: PackedSequence, state: State) -> tuple[PackedSequence, State]:
        """Run over sequences of various lengths."""
        if self.inputs == "dynamic":
            raise CompressionError(
                "packed sequences: expected padded ones where inputs are rounded at run time: pad and mask them, or "
                "use weight_only_quantization for this layer"
            )
        if state is None:
            state = self.zero_state(packed.data, int(packed.batch_sizes[0]))
        elif packed.sorted_indices is not None:
            order = packed.sorted_indices
            state = mapped(state, lambda value: value.index_select(1, order))
        first, *last = self.kernel()(
            packed.data,
            packed.batch_sizes,
            state,
            self.flat_weights(),
            self.bias,
            self.num_layers,
            0.0,
            False,
            self.bidirectional,
        )
        ended: State = tuple(last) if len(last) > 1 else last[0]
        if packed.unsorted_indices is not None:
            back = packed.unsorted_indices
            ended = mapped(ended, lambda value: value.index_select(1, back))
        return PackedSequence(first, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), ended

    def kernel(self) -> Any:
        """Torch's own operator."""
        raise NotImplementedError


class QuantizedLSTM(QuantizedRecurrent):
    """``nn.LSTM`` on integer weights."""

    float_type = nn.LSTM
    input_kinds = ("dynamic", "float")
    gates = 4

    def zero_state(self, inputs: Tensor, examples: int) -> State:
        """Hidden and cell state before the first step."""
        zeros = super().zero_state(inputs, examples)
        return zeros, zeros.clone()

    def kernel(self) -> Any:
        """Torch's own operator."""
        return torch._VF.lstm

    def over(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over sequences of one length."""
        if self.inputs == "float":
            return super().over(inputs, state)
        values = inputs.transpose(0, 1) if self.batch_first else inputs
        hidden, cells = [], []
        for layer in range(self.num_layers):
            outputs = []
            values = rounded_to_own_range(values)
            for direction, suffix in enumerate(suffixes(layer, self.directions)):
                place = layer * self.directions + direction
                sequence, last, cell = self.one_direction(values, state[0][place], state[1][place], suffix)
                outputs.append(sequence)
                hidden.append(last)
                cells.append(cell)
            values = torch.cat(outputs, 2)
        values = values.transpose(0, 1) if self.batch_first else values
        return values, (torch.stack(hidden), torch.stack(cells))

    def one_direction(self, values: Tensor, hidden: Tensor, cell: Tensor, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """Step through rounded values ``(T, N, I)``; returns ``(T, N, H)`` and the last hidden and cell state."""
        sums = nn.functional.linear(values, self.read(f"weight_ih_{suffix}"))
        if self.bias:
            sums = sums + getattr(self, f"bias_ih_{suffix}") + getattr(self, f"bias_hh_{suffix}")
        recurrent = self.read(f"weight_hh_{suffix}")
        steps = list(range(values.shape[0]))
        outputs: list[Tensor] = [hidden] * len(steps)
        for step in reversed(steps) if suffix.endswith("_reverse") else steps:
            gates = sums[step] + nn.functional.linear(rounded_to_own_range(hidden), recurrent)
            come, forget, new, go = gates.chunk(4, 1)
            cell = forget.sigmoid() * cell + come.sigmoid() * new.tanh()
            hidden = go.sigmoid() * cell.tanh()
            outputs[step] = hidden
        return torch.stack(outputs), hidden, cell


class QuantizedGRU(QuantizedRecurrent):
    """``nn.GRU`` on integer weights.

    No operator of onnxruntime or OpenVINO is a GRU on integers. A loop that multiplies them step by step needs seven
    times the time of their float GRU at 64 units, as much at about 280, and less only beyond
    (``benchmarks/gru_on_integers.py``).
    """

    float_type = nn.GRU
    input_kinds = ("float",)
    why_no_others = "onnxruntime has an LSTM on integers and no GRU"
    gates = 3

    def kernel(self) -> Any:
        """Torch's own operator."""
        return torch._VF.gru


def suffixes(layer: int, directions: int) -> list[str]:
    """How torch ends the names of a layer's tensors."""
    return [f"l{layer}", f"l{layer}_reverse"][:directions]


def mapped(state: State, change: Any) -> State:
    """Apply ``change`` to each tensor of a state."""
    return tuple(change(value) for value in state) if isinstance(state, tuple) else change(state)
