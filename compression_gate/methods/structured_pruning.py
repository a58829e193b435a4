"""Structured pruning: whole channels and neurons leave the model, with everything that depends on them."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning import ops
from torch_pruning.pruner import function

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.options import not_one_of, outside, refuse
from compression_gate.methods.scores import gradients, mean_inputs
from compression_gate.modules.surgery import CONVOLUTIONS, ties
from compression_gate.tasks.calling import call

log = logging.getLogger("compression_gate")
Importance = Literal["l1", "l2", "taylor", "activation", "norm_scale", "random"]
ROOTS = (*CONVOLUTIONS, nn.Linear, nn.Embedding)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True, kw_only=True)
class StructuredPruning:
    """Remove the least important channels of convolutions, neurons of linear layers, dimensions of embeddings.

    torch-pruning's dependency graph finds what must leave together: the next layer's inputs, norms, depthwise
    convolutions, both sides of a residual addition. Heads of attention shrink alike. The model's outputs stay.

    Args:
        pruning_ratio: share of each layer's channels to remove, in [0, 1).
        importance: what a channel is worth. ``l1`` and ``l2``: the norm of its weights over all layers it touches;
            ``taylor``: the loss it would cost to first order; ``activation``: what it feeds into the layers behind
            it; ``norm_scale``: the scale of its norm; ``random``: the control.
        round_to: keep a multiple of this many channels (at least one multiple), which some processors like.
        ignore: names of modules that keep all their channels, with everything inside them.

    Source: G. Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023; importance: H. Li et al., Pruning
        Filters for Efficient ConvNets, ICLR 2017 (L1); P. Molchanov et al., Importance Estimation for Neural Network
        Pruning, CVPR 2019, eq. 8 (Taylor; ours sums |w·g| over the weights); Z. Liu et al., Network Slimming, ICCV 2017
        (norm scale).
    """

    effect: ClassVar[Effect] = "fewer_parameters"
    pruning_ratio: float = 0.5
    importance: Importance = "l2"
    round_to: int = 1
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse(
            outside("pruning_ratio", self.pruning_ratio, 0, 1, open_="]"),
            not_one_of("importance", self.importance, get_args(Importance)),
            outside("round_to", self.round_to, 1),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a smaller copy of ``model``."""
        ignored = ignored_modules(model, self.ignore)
        subject = scored(model, self.importance, context)
        scorer = Scorer(self.importance, subject, context)
        plan, reasons = planned(subject, context, self, scorer, ignored)
        smaller, broken = pruned(model, plan, context)
        widths = widths_of(smaller)
        context.notes.covered.extend(name for name, width in widths_of(model).items() if width != widths[name])
        reasons |= broken
        context.notes.uncovered.update(
            {name: why for name, why in reasons.items() if name not in context.notes.covered}
        )
        if not context.notes.covered and self.pruning_ratio > 0:
            why = "; ".join(f"{name}: {reason}" for name, reason in context.notes.uncovered.items())
            raise CompressionError(f"structured_pruning: no channel can be removed: {why or 'the model has no layers'}")
        return smaller


def ignored_modules(model: nn.Module, names: tuple[str, ...]) -> set[str]:
    """Return the names in ``names`` with all modules inside them."""
    known = [name for name, _ in model.named_modules()]
    refuse(*(not_one_of("ignore", name, known) for name in names))
    return {name for name in known if any(name == one or name.startswith(f"{one}.") for one in names)}


def scored(model: nn.Module, importance: Importance, context: Context) -> nn.Module:
    """Return a copy to look at, with every weight traceable and, for Taylor, gradients on the calibration split."""
    subject = copy.deepcopy(model).eval()
    for parameter in subject.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    if importance == "taylor":
        for name, gradient in gradients(subject, context).items():
            subject.get_parameter(name).grad = gradient
    return subject


def graph_of(model: nn.Module, context: Context) -> Any:
    """Trace the model on a real example.

    Raises:
        CompressionError: torch-pruning cannot follow it.
    """
    inputs = context.task.example_inputs(2)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, forward_fn=call)
    except Exception as error:  # it may fail in any way on a model it does not understand
        raise CompressionError(
            f"structured_pruning: torch-pruning cannot follow the model ({type(error).__name__}: {error}): "
            "leave the step out"
        ) from error
    for warning in caught:
        log.info("structured_pruning: torch-pruning: %s", str(warning.message).strip())
    return graph


def planned(
    subject: nn.Module, context: Context, options: StructuredPruning, scorer: Scorer, ignored: set[str]
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Decide which channels of which layers leave: (by the root layer's name, reasons for the layers that stay)."""
    graph = graph_of(subject, context)
    output = next(iter(graph.module2node.values()))  # tracing starts at the model's output
    tied = {name.rpartition(".")[0] for group in ties(subject) for name in group}
    plan: dict[str, list[int]] = {}
    reasons = {name: unseen(module) for name, module in subject.named_modules() if is_layer(module)}
    for group in graph.get_all_groups(root_module_types=ROOTS):
        names = layers_in(group, graph)
        root = graph._module2name[group[0].dep.target.module]
        reason = refusal(group, graph, output, tied, ignored)
        scores = None if reason else scorer(group)
        if reason is None and scores is None:
            reason = f"importance {options.importance} has nothing to go by: no norm or layer of a known type behind it"
        if reason is None and scores is not None:
            leaving = chosen(scores, heads_of(group, graph), options)
            if leaving:
                plan[root] = leaving
                reasons = {name: text for name, text in reasons.items() if name not in names}
                continue
            reason = f"has {len(scores)} channels: too few to remove any"
        reasons |= dict.fromkeys(names, reason or "")
    return plan, reasons


def widths_of(model: nn.Module) -> dict[str, int]:
    """Return how many channels or features each layer puts out, by name."""
    return {
        name: next(
            int(getattr(module, key))
            for key in ("out_channels", "out_features", "embed_dim", "embedding_dim", "hidden_size")
            if hasattr(module, key)
        )
        for name, module in model.named_modules()
        if is_layer(module)
    }


def is_layer(module: nn.Module) -> bool:
    """Whether a module has channels or units that somebody would want to remove."""
    return isinstance(module, (*ROOTS, nn.RNNBase, nn.MultiheadAttention))


def unseen(module: nn.Module) -> str:
    """Say why a layer is in no group."""
    if isinstance(module, nn.RNNBase):
        return f"units of {type(module).__name__} cannot be removed yet: its gates share them across time"
    return "its channels leave no trace in the model's output, or belong to the layer around it"


def layers_in(group: Any, graph: Any) -> set[str]:
    """Return the names of the layers whose outputs a group removes."""
    return {
        graph._module2name[dep.target.module]
        for dep, _ in group
        if graph.is_out_channel_pruning_fn(dep.handler)
        and isinstance(dep.target.module, (*ROOTS, nn.MultiheadAttention))
    }


def refusal(group: Any, graph: Any, output: Any, tied: set[str], ignored: set[str]) -> str | None:
    """Return why a group must stay as it is, or None."""
    owners = {
        id(parameter): module for module in graph.model.modules() for parameter in module.parameters(recurse=False)
    }
    for dep, _ in group:
        node = dep.target
        module = owners.get(id(node.module), node.module)
        name = graph._module2name.get(module, "")
        if node is output and graph.is_out_channel_pruning_fn(dep.handler):
            return "its outputs are the model's outputs"
        if isinstance(module, nn.RNNBase):
            return f"tied to {name or 'a recurrent layer'} ({type(module).__name__}), which cannot be pruned yet"
        if name and name in ignored and graph.is_out_channel_pruning_fn(dep.handler):
            return f"ignored: {name} is in `ignore`"
        if name and name in tied:
            return f"{name} shares its weights with another layer"
    return None


def heads_of(group: Any, graph: Any) -> int:
    """Return into how many equal parts the channels fall that must shrink alike: conv groups, norm groups, heads."""
    parts = [1]
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.MultiheadAttention):
            parts.append(module.num_heads)
        elif isinstance(module, CONVOLUTIONS) and module.groups in (module.out_channels, module.in_channels):
            continue  # depthwise: each channel by itself
        elif graph.is_out_channel_pruning_fn(dep.handler):
            parts.append(graph.get_pruner_of_module(module).get_out_channel_groups(module))
        else:
            parts.append(graph.get_pruner_of_module(module).get_in_channel_groups(module))
    return math.lcm(*parts)


def chosen(scores: Tensor, parts: int, options: StructuredPruning) -> list[int]:
    """Return the indices of the channels that leave, equally many of each part.

    Args:
        scores: ``(C,)``, higher is kept.
        parts: equal parts of the channels, see :func:`heads_of`.
    """
    if len(scores) % parts:
        return []
    size = len(scores) // parts
    # A billionth of slack: 10 × (1 − 0.9) is a little under 1 in floating point.
    keep = max(1, math.ceil(size * (1 - options.pruning_ratio) - 1e-9))
    if options.round_to > 1:
        keep = min(size, max(1, round(keep / options.round_to)) * options.round_to)
    order = scores.view(parts, size).mean(0).argsort(stable=True)[: size - keep]
    return sorted(int(index) + part * size for part in range(parts) for index in order)


def pruned(model: nn.Module, plan: dict[str, list[int]], context: Context) -> tuple[nn.Module, dict[str, str]]:
    """Carry the plan out on a copy; layers that would break the model stay, each with what broke.

    Raises:
        CompressionError: the parts can be pruned one by one, but not together.
    """
    smaller, broken = attempt(model, plan, context), {}
    if isinstance(smaller, str):
        for name, leaving in plan.items():
            alone = attempt(model, {name: leaving}, context)
            if isinstance(alone, str):
                broken[name] = f"the model breaks without these channels: {alone}"
        smaller = attempt(model, {name: leaving for name, leaving in plan.items() if name not in broken}, context)
    if isinstance(smaller, str):
        raise CompressionError(
            f"structured_pruning: the pruned model does not run: {smaller}: name the layers to keep in `ignore`"
        )
    return smaller, broken


def attempt(model: nn.Module, plan: dict[str, list[int]], context: Context) -> nn.Module | str:
    """Return the pruned copy, or what went wrong when it was pruned or called."""
    smaller = copy.deepcopy(model).eval()
    frozen = {name for name, parameter in smaller.named_parameters() if not parameter.requires_grad}
    inputs = context.task.example_inputs(2)
    with torch.no_grad():
        shape = call(smaller, inputs).shape
    for parameter in smaller.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    graph = graph_of(smaller, context)
    modules = dict(smaller.named_modules())
    try:
        for name, leaving in plan.items():
            module = modules[name]
            pruner = graph.get_pruner_of_module(module)
            graph.get_pruning_group(module, pruner.prune_out_channels, leaving).prune()
        with torch.no_grad():
            got = call(smaller, inputs).shape
    except Exception as error:  # torch-pruning and the user's forward() may fail in any way
        log.debug("structured_pruning: %s", plan.keys(), exc_info=True)
        return f"{type(error).__name__}: {error}"
    if got != shape:
        return f"the output's shape would be {tuple(got)}, not {tuple(shape)}"
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(parameter.is_floating_point() and name not in frozen)
        parameter.grad = None
    return smaller


class Scorer:
    """Gives each channel of a group its importance ``(C,)``, or None where there is nothing to go by."""

    def __init__(self, importance: Importance, subject: nn.Module, context: Context) -> None:
        self.importance = importance
        self.random = torch.Generator().manual_seed(context.train.seed)
        self.inputs = mean_inputs(subject, context, (*CONVOLUTIONS, nn.Linear)) if importance == "activation" else {}

    @torch.no_grad()
    def __call__(self, group: Any) -> Tensor | None:
        """Add up the parts that the layers of a group give to each channel of its root."""
        channels = len(group[0].idxs)
        if self.importance == "random":
            return torch.rand(channels, generator=self.random)
        total, found = torch.zeros(channels), False
        for index in range(len(group)):
            item = group[index]
            if any(root is None for root in item.root_idxs):
                continue
            for values in self.parts(item.dep):
                indices = torch.as_tensor(item.idxs)
                if len(indices) and int(indices.max()) < len(values):
                    total.index_add_(0, torch.as_tensor(item.root_idxs), values[indices].float())
                    found = True
        return total if found else None

    def parts(self, dep: Any) -> Iterator[Tensor]:
        """Yield what one layer says about its own channels, each ``(channels of the layer,)``."""
        layer, outgoing = dep.target.module, dep.handler in OUTGOING
        if self.importance == "activation":
            if layer in self.inputs and not outgoing and not isinstance(layer, nn.Embedding):
                yield self.inputs[layer]
        elif isinstance(layer, NORMS):
            if layer.weight is not None:
                yield self.magnitude(layer.weight, 0)
        elif isinstance(layer, ROOTS) and self.importance != "norm_scale":
            yield self.magnitude(layer.weight, channel_axis(layer, outgoing), repeats(layer, outgoing))

    def magnitude(self, weight: Tensor, axis: int, repeats: int = 1) -> Tensor:
        """Add up |w|, w² or |w·g| over all axes but one."""
        if self.importance == "taylor":
            gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
            values = (weight * gradient).abs()
        else:
            values = weight.square() if self.importance == "l2" else weight.abs()
        return values.transpose(0, axis).flatten(1).sum(1).repeat(repeats) if values.dim() > 1 else values


OUTGOING = {
    *(function.prune_conv_out_channels, function.prune_linear_out_channels),
    function.prune_depthwise_conv_out_channels,
}


def channel_axis(layer: nn.Module, outgoing: bool) -> int:
    """Return which axis of a layer's weight counts the channels."""
    if isinstance(layer, nn.Embedding):
        return 1
    depthwise = isinstance(layer, CONVOLUTIONS) and ops.module2type(layer) == ops.OPTYPE.DEPTHWISE_CONV
    transposed = bool(getattr(layer, "transposed", False))
    return 0 if depthwise or outgoing != transposed else 1


def repeats(layer: nn.Module, outgoing: bool) -> int:
    """Return how often a grouped convolution's weight stands for its channels: it holds those of one group only."""
    if not isinstance(layer, CONVOLUTIONS) or ops.module2type(layer) == ops.OPTYPE.DEPTHWISE_CONV:
        return 1
    return 1 if outgoing != layer.transposed else layer.groups
