"""Recurrent and attention layers taken apart, so that units and heads can be removed, and put together again.

Taken apart, a recurrent layer is one module for each layer and direction, and an attention layer four linear layers.
The weights are copies of the original's, and the parts compute what the whole did. While ``traced`` is set they only
show which tensor depends on which: gates and heads then are one operation that keeps channels where they are.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from compression_gate.modules.attention import HeadAttention
from compression_gate.modules.surgery import replace, ties
from compression_gate.tasks.calling import Inputs, call

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
ATTENTION = (nn.MultiheadAttention, HeadAttention)
CLOSED = (nn.RNNBase, *ATTENTION)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
Attention = TypeVar("Attention", bound=HeadAttention)
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Joined(torch.autograd.Function):
    """One operation that depends on all its tensors, channel by channel; its values mean nothing."""

    @staticmethod
    def forward(context: Any, width: int, *tensors: Tensor) -> Tensor:
        """Return zeros in the form of the first tensor, ``width`` wide."""
        return tensors[0].new_zeros(*tensors[0].shape[:-1], width)


class OpenAttention(HeadAttention):
    """An attention layer as four linear layers."""

    traced = False

    def attended(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, or show what depends on what."""
        if not self.traced:
            return super().attended(query, key, value, mask, need_weights=need_weights)
        weights = query.new_zeros(len(query), self.num_heads, query.shape[1], key.shape[1]) if need_weights else None
        return cast("Tensor", Joined.apply(query.shape[-1], query, key, value)), weights


class Units(nn.Module):
    """The hidden units of one layer and direction of a recurrent layer.

    Args:
        layer: the recurrent layer.
        suffix: how its parameters' names end: ``l0``, ``l0_reverse``, ``l1``, …
    """

    traced = False

    def __init__(self, layer: nn.RNNBase, suffix: str) -> None:
        super().__init__()
        self.mode = layer.mode.lower()
        self.reverse = suffix.endswith("_reverse")
        for name in NAMES:
            value = getattr(layer, f"{name}_{suffix}", None)
            self.register_parameter(name, None if value is None else copied(value))

    weight_ih: nn.Parameter
    weight_hh: nn.Parameter
    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    @property
    def hidden_size(self) -> int:
        """How many units there are."""
        return int(self.weight_hh.shape[1])

    @property
    def input_size(self) -> int:
        """How many inputs each of them reads."""
        return int(self.weight_ih.shape[1])

    @property
    def gates(self) -> int:
        """How many rows of the weights belong to one unit."""
        return len(self.weight_hh) // self.hidden_size

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs ``(N, T, H)`` and the last states ``(N, H)``: hidden and cell (hidden again where none)."""
        if self.traced:
            output = cast("Tensor", Joined.apply(self.hidden_size, inputs, self.weight_ih))
            return output, output[:, -1], output[:, -1]
        inputs = inputs.flip(1) if self.reverse else inputs
        first = inputs.new_zeros(1, len(inputs), self.hidden_size)
        weights = [value for name in NAMES if (value := getattr(self, name)) is not None]
        start = [first, first] if self.mode == "lstm" else first
        more = (self.bias_ih is not None, 1, 0.0, False, False, True)
        output, *states = getattr(torch._VF, self.mode)(inputs, start, weights, *more)
        return output.flip(1) if self.reverse else output, states[0][0], states[-1][0]


class OpenRecurrent(nn.Module):
    """A recurrent layer as one :class:`Units` for each layer and direction; without dropout."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.batch_first, self.bidirectional, self.mode = layer.batch_first, layer.bidirectional, layer.mode
        self.num_layers, self.hidden_size, self.input_size = layer.num_layers, layer.hidden_size, layer.input_size
        self.units = nn.ModuleList(Units(layer, suffix) for suffix in suffixes(layer))

    def flatten_parameters(self) -> None:
        """Do nothing; some models call it."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Any]:
        """Return what the recurrent layer returns."""
        batched = inputs.dim() == 3
        if not batched:
            inputs = inputs.unsqueeze(0)
        elif not self.batch_first:
            inputs = inputs.transpose(0, 1)
        hidden, cell = [], []
        directions = 2 if self.bidirectional else 1
        for first in range(0, len(self.units), directions):
            results = [units(inputs) for units in self.units[first : first + directions]]
            inputs = torch.cat([output for output, _, _ in results], -1) if directions == 2 else results[0][0]
            hidden += [state for _, state, _ in results]
            cell += [state for _, _, state in results]
        if self.units[0].traced:
            # Whoever reads the last states nearly always reads the upper layer's. To show the others as well would
            # tie all layers' units together; where they are read after all, the smaller model breaks and is put back.
            lower = len(self.units) - directions
            hidden = [*(state.detach() for state in hidden[:lower]), *hidden[lower:]]
            cell = [*(state.detach() for state in cell[:lower]), *cell[lower:]]
        states = [torch.stack(hidden), torch.stack(cell)]
        if not batched:
            inputs, states = inputs.squeeze(0), [state.squeeze(1) for state in states]
        elif not self.batch_first:
            inputs = inputs.transpose(0, 1)
        return inputs, tuple(states) if self.mode == "LSTM" else states[0]


def suffixes(layer: nn.RNNBase) -> list[str]:
    """Return how the names of a recurrent layer's parameters end, in the order of its states."""
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"l{number}{direction}" for number in range(layer.num_layers) for direction in directions]


def copied(value: Tensor) -> nn.Parameter:
    """Return a parameter of its own, trainable if ``value`` is."""
    return nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad)


def open_attention(layer: nn.MultiheadAttention | HeadAttention) -> OpenAttention:
    """Take an attention layer apart."""
    if isinstance(layer, HeadAttention):
        return with_projections(OpenAttention(**layer.constructor_arguments()), copy.deepcopy(layer))
    opened = OpenAttention(
        embed_dim=layer.embed_dim,
        num_heads=layer.num_heads,
        head_dim=layer.head_dim,
        bias=layer.in_proj_bias is not None,
        dropout=layer.dropout,
        batch_first=layer.batch_first,
    )
    joint = layer.in_proj_weight
    parts = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight) if joint is None else joint.chunk(3)
    biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), parts, biases, strict=True):
        source = joint if joint is not None else weight
        setattr(opened, name, linear(weight, bias, source.requires_grad))
    opened.out_proj = linear(layer.out_proj.weight, layer.out_proj.bias, layer.out_proj.weight.requires_grad)
    return opened


def with_projections(layer: Attention, source: HeadAttention) -> Attention:
    """Give an attention layer the projections of another."""
    for name in PROJECTIONS:
        setattr(layer, name, getattr(source, name))
    return layer


def linear(weight: Tensor, bias: Tensor | None, trainable: bool) -> nn.Linear:
    """Return a linear layer of these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=trainable)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=trainable)
    return layer


def obstacles(model: nn.Module, inputs: Inputs) -> dict[str, str]:
    """Return the recurrent and attention layers that cannot be taken apart, each with the reason."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, CLOSED)}
    shared = {name.rpartition(".")[0] for group in ties(model) for name in group}
    calls, seen = Counter[str](), {}

    def noted(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], more: dict[str, Any]) -> None:
            calls[name] += 1
            if reason := call_problem(layers[name], (*given, *more.values())):
                seen[name] = reason

        return hook

    hooks = [layer.register_forward_pre_hook(noted(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        with torch.no_grad(), layer_by_layer():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if any(part in shared for part in (name, f"{name}.out_proj")):
            seen[name] = f"{name} shares its weights with another layer"
        elif reason := own_problem(layer):
            seen[name] = reason
        elif calls[name] != 1:
            seen[name] = f"forward() calls it {calls[name]} times: expected once"
    return seen


def call_problem(layer: nn.Module, given: tuple[Any, ...]) -> str | None:
    """Say what about a call forbids to take the layer apart, or return None."""
    if not isinstance(layer, nn.RNNBase):
        return None
    if not isinstance(given[0], Tensor):
        return "is given a packed sequence: expected a padded tensor outside training"
    if any(value is not None for value in given[1:]):
        return "is given its first state, whose size the model fixes: expected none"
    return None


def own_problem(layer: Any) -> str | None:
    """Say what about a layer itself forbids to take it apart, or return None."""
    if type(layer) not in (*RECURRENT, *ATTENTION):
        return f"{type(layer).__name__} is a class of its own: expected a layer of torch.nn"
    if isinstance(layer, nn.RNNBase):
        return "has proj_size: its units are projected before anything reads them" if layer.proj_size else None
    if isinstance(layer, nn.MultiheadAttention) and (layer.bias_k is not None or layer.add_zero_attn):
        return "has add_bias_kv or add_zero_attn: its heads see keys of their own"
    return None


def opened(model: nn.Module, left: Iterable[str] = ()) -> nn.Module:
    """Return a copy with recurrent and attention layers taken apart, except those in ``left``; weights are copies."""
    apart = copy.deepcopy(model)
    for name, layer in list(apart.named_modules()):
        if isinstance(layer, CLOSED) and name not in left:
            part = OpenRecurrent(layer) if isinstance(layer, nn.RNNBase) else open_attention(layer)
            replace(apart, name, part)
    return apart.eval()


@contextmanager
def traced(model: nn.Module) -> Iterator[None]:
    """Let the parts show what depends on what, rather than compute, for a while."""
    parts = [module for module in model.modules() if isinstance(module, (OpenAttention, Units))]
    for part in parts:
        part.traced = True
    try:
        yield
    finally:
        for part in parts:
            part.traced = False


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Keep torch's transformer layers from computing past their own parts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def closed(apart: nn.Module, original: nn.Module) -> nn.Module:
    """Return the model put together again, with what was removed from the parts in between; ``apart`` is used up.

    A layer of which nothing was removed is the original's; recurrent layers keep their type; attention layers too
    where the heads that are left fill the width, else they become a :class:`HeadAttention`.
    """
    wholes = dict(original.named_modules())
    for name, module in list(apart.named_modules()):
        if isinstance(module, OpenRecurrent):
            replace(apart, name, closed_recurrent(module, cast("nn.RNNBase", wholes[name])))
        elif isinstance(module, OpenAttention):
            replace(apart, name, closed_attention(module, cast("nn.MultiheadAttention | HeadAttention", wholes[name])))
    for module in apart.modules():
        inside = [part for part in module.modules() if isinstance(part, ATTENTION)]
        if isinstance(module, nn.Transformer) and inside:
            module.d_model = inside[0].out_proj.out_features  # its inputs are compared with this
    return apart


def closed_recurrent(apart: OpenRecurrent, whole: nn.RNNBase) -> nn.RNNBase:
    """Put a recurrent layer together; all its layers and directions must have equally many units."""
    layer = copy.deepcopy(whole)
    units = cast("list[Units]", list(apart.units))
    if len({part.hidden_size for part in units}) != 1:
        raise ValueError("the layers and directions would have different numbers of units")
    for part, suffix in zip(units, suffixes(whole), strict=True):
        for name in NAMES:
            if (value := getattr(part, name)) is not None:
                setattr(layer, f"{name}_{suffix}", copied(value))
    layer.hidden_size, layer.input_size = units[0].hidden_size, units[0].input_size
    return layer


def closed_attention(apart: OpenAttention, whole: nn.MultiheadAttention | HeadAttention) -> nn.Module:
    """Put an attention layer together, or leave it in its own form where ``nn.MultiheadAttention`` has none for it."""
    before = open_attention(whole)
    if all(getattr(apart, name).weight.shape == getattr(before, name).weight.shape for name in PROJECTIONS):
        return copy.deepcopy(whole)
    width, inner = apart.out_proj.out_features, apart.q_proj.out_features
    widths = {width, inner, *(part.in_features for part in (apart.q_proj, apart.k_proj, apart.v_proj))}
    if isinstance(whole, nn.MultiheadAttention) and whole.in_proj_weight is not None and len(widths) == 1:
        return narrower(whole, apart)
    settled = HeadAttention(
        embed_dim=width,
        num_heads=inner // apart.head_dim,
        head_dim=apart.head_dim,
        bias=apart.out_proj.bias is not None,
        dropout=whole.dropout,
        batch_first=whole.batch_first,
    )
    return with_projections(settled, apart)


def narrower(whole: nn.MultiheadAttention, apart: OpenAttention) -> nn.MultiheadAttention:
    """Return a copy of torch's layer with other projections, all of one width."""
    layer, width = copy.deepcopy(whole), apart.out_proj.out_features
    parts = (apart.q_proj, apart.k_proj, apart.v_proj)
    trainable = whole.in_proj_weight.requires_grad
    layer.in_proj_weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]), trainable)
    layer.out_proj.weight = copied(apart.out_proj.weight)
    if whole.in_proj_bias is not None:
        trainable = whole.in_proj_bias.requires_grad
        layer.in_proj_bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]), trainable)
        layer.out_proj.bias = copied(apart.out_proj.bias)
    layer.out_proj.in_features = layer.out_proj.out_features = width
    layer.embed_dim = layer.kdim = layer.vdim = width
    layer.num_heads, layer.head_dim = width // apart.head_dim, apart.head_dim
    return layer
