"""What must leave a model together, found by torch-pruning on a model whose recurrent and attention layers are open."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.pruner import function

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context
from compression_gate.modules.opened import CLOSED, NAMES, OpenAttention, OpenRecurrent, Units, layer_by_layer, traced
from compression_gate.modules.surgery import CONVOLUTIONS, ties
from compression_gate.tasks.calling import call

log = logging.getLogger("compression_gate")
ROOTS = (*CONVOLUTIONS, nn.Linear, nn.Embedding)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
LAYERS = (*ROOTS, Units, *CLOSED)


class UnitsPruner(function.BasePruningFunc):  # type: ignore[misc]  # torch-pruning has no types
    """Tells torch-pruning how hidden units are removed, and inputs that they read."""

    TARGET_MODULES = Units

    def prune_out_channels(self, layer: Units, idxs: list[int]) -> Units:
        """Remove units: their rows in every gate, and the column that each of the others reads of them."""
        kept, gates = rest(layer.hidden_size, idxs), layer.gates
        for name in NAMES:
            value = getattr(layer, name)
            if value is None:
                continue
            by_gate = value.detach().unflatten(0, (gates, -1))[:, kept]
            smaller = by_gate[:, :, kept] if name == "weight_hh" else by_gate
            setattr(layer, name, nn.Parameter(smaller.flatten(0, 1).clone()))
        return layer

    def prune_in_channels(self, layer: Units, idxs: list[int]) -> Units:
        """Remove inputs."""
        kept = rest(layer.input_size, idxs)
        layer.weight_ih = nn.Parameter(layer.weight_ih.detach()[:, kept].clone())
        return layer

    def get_out_channels(self, layer: Units) -> int:
        """How many units there are."""
        return layer.hidden_size

    def get_in_channels(self, layer: Units) -> int:
        """How many inputs they read."""
        return layer.input_size


def rest(size: int, leaving: list[int]) -> Tensor:
    """Return the indices that stay, in order."""
    gone = set(leaving)
    return torch.tensor([index for index in range(size) if index not in gone], dtype=torch.long)


UNITS = UnitsPruner()
OUTGOING = {
    *(function.prune_conv_out_channels, function.prune_linear_out_channels),
    *(function.prune_depthwise_conv_out_channels, UNITS.prune_out_channels),
}


def graph_of(apart: nn.Module, context: Context) -> Any:
    """Trace an open model on real examples.

    Raises:
        CompressionError: torch-pruning cannot follow it.
    """
    inputs = context.task.example_inputs(2)
    try:
        with warnings.catch_warnings(record=True) as caught, traced(apart), layer_by_layer():
            warnings.simplefilter("always")
            graph = torch_pruning.DependencyGraph().build_dependency(
                apart, inputs, forward_fn=call, customized_pruners={Units: UNITS}
            )
    except Exception as error:  # it may fail in any way on a model it does not understand
        raise CompressionError(
            f"structured_pruning: torch-pruning cannot follow the model ({type(error).__name__}: {error}): "
            "leave the step out"
        ) from error
    for warning in caught:
        log.info("structured_pruning: torch-pruning: %s", str(warning.message).strip())
    return graph


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that can only leave together with others, and what is known about them.

    Args:
        root: the module by which torch-pruning finds the group, by its name in the open model.
        layers: names of the layers whose outputs would leave, in the closed model.
        scores: what each channel is worth ``(C,)``; None where there is nothing to go by.
        parts: equal parts of the channels that must shrink alike.
        head_dim: channels that leave as one: those of an attention head; 1 elsewhere.
        units: for the units of each recurrent layer and direction, by name in the open model: whose they are, and
            which channel of the root each is.
        reason: why all must stay, if so.
    """

    root: str
    layers: frozenset[str]
    scores: Tensor | None
    parts: int = 1
    head_dim: int = 1
    units: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    reason: str | None = None


def channel_groups(
    apart: nn.Module, context: Context, scorer: Callable[[Any], Tensor | None], ignored: set[str], why: str
) -> list[ChannelGroup]:
    """Return every group of channels of an open model.

    Args:
        scorer: gives each channel of a group its worth.
        ignored: names of modules that keep their channels.
        why: what to say where the scorer has nothing to go by.
    """
    graph = graph_of(apart, context)
    output = next(iter(graph.module2node.values()))  # tracing starts at the model's output
    tied = {name.rpartition(".")[0] for group in ties(apart) for name in group}
    owners = owners_in(apart)
    found = []
    for group in graph.get_all_groups(root_module_types=(*ROOTS, Units)):
        reason = refusal(group, graph, output, tied, ignored)
        scores = None if reason else scorer(group)
        if reason is None and scores is None:
            reason = why
        head_dim = head_dim_of(group, apart)
        if reason is None and head_dim == 0:
            reason = "heads of different sizes read and write these channels"
        found.append(
            ChannelGroup(
                root=graph._module2name[group[0].dep.target.module],
                layers=frozenset(owners.get(name, name) for name in layers_in(group, graph)),
                scores=scores,
                parts=parts_of(group, graph) if reason is None else 1,
                head_dim=max(1, head_dim),
                units=units_of(group, graph, owners),
                reason=reason,
            )
        )
    return found


def owners_in(apart: nn.Module) -> dict[str, str]:
    """Return, for each module inside an opened layer, the name of that layer."""
    wholes = [name for name, module in apart.named_modules() if isinstance(module, (OpenAttention, OpenRecurrent))]
    return {name: whole for whole in wholes for name, _ in apart.named_modules() if name.startswith(f"{whole}.")}


def layers_in(group: Any, graph: Any) -> set[str]:
    """Return the names of the layers whose outputs a group removes."""
    return {
        graph._module2name[dep.target.module]
        for dep, _ in group
        if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(dep.target.module, LAYERS)
    }


def units_of(group: Any, graph: Any, owners: dict[str, str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return which hidden units a group removes; see :class:`ChannelGroup`."""
    found = {}
    for index in range(len(group)):
        item = group[index]
        if item.dep.handler == UNITS.prune_out_channels:
            name = graph._module2name[item.dep.target.module]
            found[name] = (owners[name], tuple(item.root_idxs))
    return found


def refusal(group: Any, graph: Any, output: Any, tied: set[str], ignored: set[str]) -> str | None:
    """Return why a group must stay as it is, or None."""
    holders = {
        id(parameter): module for module in graph.model.modules() for parameter in module.parameters(recurse=False)
    }
    for dep, _ in group:
        node = dep.target
        module = holders.get(id(node.module), node.module)
        name = graph._module2name.get(module, "")
        outgoing = graph.is_out_channel_pruning_fn(dep.handler)
        if node is output and outgoing:
            return "its outputs are the model's outputs"
        if isinstance(module, CLOSED):
            return f"tied to {name} ({type(module).__name__}), which keeps its form"
        if name and name in ignored and outgoing:
            return f"ignored: {name} is in `ignore`"
        if name and name in tied:
            return f"{name} shares its weights with another layer"
    return None


def head_dim_of(group: Any, apart: nn.Module) -> int:
    """Return how many channels are one head where a group removes heads, 1 where it does not, 0 where heads differ."""
    removed = {id(dep.target.module) for dep, _ in group if dep.handler in OUTGOING}
    sizes = {
        layer.head_dim
        for layer in apart.modules()
        if isinstance(layer, OpenAttention)
        and any(id(part) in removed for part in (layer.q_proj, layer.k_proj, layer.v_proj))
    }
    return 0 if len(sizes) > 1 else next(iter(sizes), 1)


def parts_of(group: Any, graph: Any) -> int:
    """Return into how many equal parts the channels fall that must shrink alike: those of convolutions and norms."""
    parts = [1]
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, CONVOLUTIONS) and module.groups in (module.out_channels, module.in_channels):
            continue  # depthwise: each channel by itself
        if graph.is_out_channel_pruning_fn(dep.handler):
            parts.append(graph.get_pruner_of_module(module).get_out_channel_groups(module))
        else:
            parts.append(graph.get_pruner_of_module(module).get_in_channel_groups(module))
    return math.lcm(*parts)
