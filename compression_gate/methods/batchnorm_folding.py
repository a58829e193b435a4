"""Batch norm folding: a norm directly behind a convolution or linear layer is multiplied into it, and gone."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.options import not_one_of, outside, refuse
from compression_gate.modules.surgery import CONVOLUTIONS, leaves, replace, ties
from compression_gate.tasks.calling import Inputs, call

LAYERS = (*CONVOLUTIONS, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm, nn.RMSNorm)
EXAMPLES = 32  # that the outputs are compared on: a wrong fold changes those of all of them


@dataclass(frozen=True, kw_only=True)
class BatchnormFolding:
    """Fold each batch norm whose input is the output of one layer, and of nothing else, into that layer.

    The order is seen while the model runs, so that it does not matter how ``forward()`` is written. A norm behind an
    activation, an addition or a layer that is used elsewhere too stays, and is named. In eval mode the outputs stay as
    they were; what trains the model afterwards trains it without these norms.

    Args:
        tolerance: the largest change of an output that is taken for rounding, as a share of the largest output; a fold
            beyond it is taken back. Exact arithmetic would need none.
        ignore: names of norms that stay.

    Source: B. Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference, CVPR 2018, §3.2, eq. 14, with the running variance, and the bias beside.
    """

    effect: ClassVar[Effect] = "fewer_parameters"
    tolerance: float = 1e-5
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse(outside("tolerance", self.tolerance, 0, 1, open_="[]"))

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy of ``model`` without the norms that could be folded."""
        norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, NORMS)}
        refuse(*(not_one_of("ignore", name, norms) for name in self.ignore))
        folded, notes = copy.deepcopy(model).eval(), context.notes
        inputs = context.task.example_inputs(EXAMPLES, "calibration")
        with torch.no_grad():
            before = call(folded, inputs)
        for name, found in pairs(folded, inputs).items():
            if name in self.ignore:
                notes.uncovered[name] = "it is in `ignore`"
            elif found.problem is not None:
                notes.uncovered[name] = found.problem
            elif not norms[name].affine:
                notes.uncovered[name] = "has no weights of its own: the model would not get smaller"
            elif problem := fold(folded, found.layer, name, inputs, before, self.tolerance):
                notes.uncovered[name] = problem
            else:
                notes.covered.append(name)
        if not notes.covered:
            why = "; ".join(f"{name}: {reason}" for name, reason in notes.uncovered.items())
            raise CompressionError(
                f"batchnorm_folding: no batch norm can be folded: {why or 'the model has none'}: leave the step out"
            )
        return folded


@dataclass(frozen=True, kw_only=True)
class Found:
    """What stands before a norm: a layer by name, or why it cannot be folded."""

    layer: str = ""
    problem: str | None = None


@dataclass(kw_only=True)
class Trace:
    """What ran in one forward pass, told by autograd's nodes: they stand for a value, also where its memory is reused.

    Args:
        made: the layer whose output a node is.
        taken: the nodes and dimensions of what each norm was given, one for each call.
        calls: how often each layer ran.
        readers: how many operations on the way to the model's output read a node's value.
    """

    made: dict[Any, str] = field(default_factory=dict)
    taken: dict[str, list[tuple[Any, int]]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    readers: Counter[Any] = field(default_factory=Counter)


def pairs(model: nn.Module, inputs: Inputs) -> dict[str, Found]:
    """Return, for each norm, the layer that it can be folded into, or why there is none."""
    trace = traced(copy.deepcopy(model), inputs)
    shared = {name.rpartition(".")[0] for group in ties(model) for name in group}
    found = {}
    for name, norm in model.named_modules():
        if isinstance(norm, (*NORMS, *OTHER_NORMS)):
            problem = own_problem(norm) or (f"{name} shares its weights" if name in shared else None)
            found[name] = Found(problem=problem) if problem else before_norm(name, model, trace, shared)
    return found


def own_problem(norm: nn.Module) -> str | None:
    """Say why a norm can be folded nowhere, or return None."""
    if type(norm) not in NORMS:
        return f"{type(norm).__name__} takes its statistics from each example"
    if getattr(norm, "running_mean", None) is None:
        return "keeps no running statistics"
    return None


def before_norm(name: str, model: nn.Module, trace: Trace, shared: set[str]) -> Found:
    """Return the layer directly before a norm, if it is used by nothing else."""
    taken = trace.taken.get(name, [])
    if len(taken) != 1:
        return Found(problem=f"runs {len(taken)} times in one pass: expected once")
    node, dimensions = taken[0]
    layer = trace.made.get(node)
    if layer is None:
        return Found(problem=f"stands behind {operation(node)}, not directly behind a convolution or linear layer")
    problem = None
    if trace.calls[layer] != 1:
        problem = f"{layer} before it runs {trace.calls[layer]} times in one pass: expected once"
    elif trace.readers[node] != 1:
        problem = f"the output of {layer} before it is used by {trace.readers[node]} operations: expected the norm only"
    elif layer in shared:
        problem = f"{layer} before it shares its weights with another layer"
    elif isinstance(model.get_submodule(layer), nn.Linear) and dimensions != 2:
        problem = f"counts channels on axis 1, {layer} before it on the last"
    return Found(layer=layer, problem=problem)


def operation(node: Any) -> str:
    """Name what made a value, as autograd calls it."""
    return "the model's input (or gradients are off)" if node is None else node.name().partition("Backward")[0]


def traced(model: nn.Module, inputs: Inputs) -> Trace:
    """Run the model once and note what was made of what; the model must be a copy."""
    trace = Trace()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    for name, layer in leaves(model, LAYERS):
        if type(layer) in LAYERS:
            layer.register_forward_hook(noting_output(trace, name))
    for name, norm in model.named_modules():
        if isinstance(norm, NORMS):
            norm.register_forward_pre_hook(noting_input(trace, name))
    with torch.enable_grad():
        output = call(model, inputs)
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for before, _ in node.next_functions:
            trace.readers[before] += 1
            waiting.append(before)
    return trace


def noting_output(trace: Trace, name: str) -> Any:
    """Return a hook that notes what a layer made."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        trace.calls[name] += 1
        if output.grad_fn is not None:
            trace.made[output.grad_fn] = name

    return hook


def noting_input(trace: Trace, name: str) -> Any:
    """Return a hook that notes what a norm was given."""

    def hook(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        trace.taken.setdefault(name, []).append((inputs[0].grad_fn, inputs[0].dim()))

    return hook


@torch.no_grad()
def fold(
    model: nn.Module, layer_name: str, norm_name: str, inputs: Inputs, before: Tensor, tolerance: float
) -> str | None:
    """Fold one norm in place; where that moves the outputs by more than ``tolerance``, undo it and say so."""
    layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
    replace(model, norm_name, nn.Identity())
    replace(model, layer_name, folded(layer, norm))
    change = float((call(model, inputs) - before).abs().max() / before.abs().max().clamp_min(1e-30))
    if change <= tolerance:
        return None
    replace(model, norm_name, norm)
    replace(model, layer_name, layer)
    return f"outputs would change by {change:.2g} of the largest: {layer_name} before it is used in other ways too"


def folded(layer: nn.Module, norm: Any) -> nn.Module:
    """Return a copy of the layer that answers as the layer and the norm behind it do in eval mode."""
    merged: Any = copy.deepcopy(layer)
    weight = merged.weight.detach().double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    bias = merged.bias.detach().double() if merged.bias is not None else torch.zeros_like(scale)
    factor = scale.reshape(-1, *(1,) * (weight.dim() - 1))
    if getattr(merged, "transposed", False):  # (I, O / groups, …), the inputs of one group after those of another
        factor = scale.reshape(merged.groups, 1, -1, *(1,) * (weight.dim() - 2))
        weight = weight.reshape(merged.groups, -1, *weight.shape[1:])
    new = (weight * factor).reshape(merged.weight.shape).to(merged.weight.dtype)
    shift = (bias - norm.running_mean.double()) * scale + (0 if norm.bias is None else norm.bias.detach().double())
    merged.weight = nn.Parameter(new, requires_grad=merged.weight.requires_grad)
    merged.bias = nn.Parameter(shift.to(new.dtype), requires_grad=merged.weight.requires_grad)
    return merged
