"""Channels leave a model, and it is checked that what is left answers as the model that ignores them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context
from compression_gate.methods.dependencies import UNITS, graph_of
from compression_gate.modules.opened import Units, closed, opened
from compression_gate.modules.surgery import CONVOLUTIONS
from compression_gate.tasks.calling import call

log = logging.getLogger("compression_gate")
Plan = dict[str, dict[str, list[int]]]  # what leaves as one, by a name: channels by the root of their group
EXAMPLES = 4
TOLERANCE = 1e-3  # of the largest output; channels read in the wrong order are off by about its whole size
ACROSS_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def removed(model: nn.Module, left: set[str], plan: Plan, context: Context) -> tuple[nn.Module, dict[str, str]]:
    """Carry the plan out on a copy; what would break the model stays, by the plan's names with what broke.

    Args:
        left: recurrent and attention layers that keep their form.

    Raises:
        CompressionError: the parts can be removed one by one, but not together.
    """
    broken: dict[str, str] = {}
    smaller = attempt(model, left, joined(plan), context)
    if isinstance(smaller, str):
        for name, channels in plan.items():
            alone = attempt(model, left, channels, context)
            if isinstance(alone, str):
                broken[name] = alone
        fine = {name: channels for name, channels in plan.items() if name not in broken}
        smaller = attempt(model, left, joined(fine), context)
    if isinstance(smaller, str):
        raise CompressionError(
            f"structured_pruning: the pruned model does not run: {smaller}: name the layers to keep in `ignore`"
        )
    return smaller, broken


def joined(plan: Plan) -> dict[str, list[int]]:
    """Return all channels of a plan by the root of their group."""
    return {root: leaving for channels in plan.values() for root, leaving in channels.items()}


def attempt(model: nn.Module, left: set[str], leaving: dict[str, list[int]], context: Context) -> nn.Module | str:
    """Return the smaller copy, or what went wrong when channels were removed, or the copy was called."""
    apart = opened(model, left)
    trainable = {name for name, parameter in apart.named_parameters() if parameter.requires_grad}
    for parameter in apart.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    graph = graph_of(apart, context)
    # What ignores the channels: the same parts, none of them read.
    deaf = copy.deepcopy(apart)
    try:
        # All first on the whole model: once something has left, torch-pruning counts in what remains.
        for root, indices in leaving.items():
            group = group_of(apart, graph, root, indices)
            for index in range(len(group)):
                unread(deaf, graph, group[index])
        for root, indices in leaving.items():
            group_of(apart, graph, root, indices).prune()
        for name, parameter in apart.named_parameters():
            parameter.requires_grad_(name in trainable)
            parameter.grad = None
        smaller = closed(apart, model).eval()
        problem = difference(smaller, deaf, context)
    except Exception as error:  # torch-pruning and the user's forward() may fail in any way
        log.debug("structured_pruning: %s", leaving.keys(), exc_info=True)
        return f"the model breaks without these channels: {type(error).__name__}: {error}"
    return problem or smaller


def group_of(apart: nn.Module, graph: Any, root: str, indices: list[int]) -> Any:
    """Return torch-pruning's group of some channels of one module."""
    module = apart.get_submodule(root)
    return graph.get_pruning_group(module, graph.get_pruner_of_module(module).prune_out_channels, indices)


@torch.no_grad()
def unread(deaf: nn.Module, graph: Any, item: Any) -> None:
    """Let the layer of one item of a group ignore the channels that leave."""
    dep, indices = item.dep, torch.as_tensor(item.idxs)
    name = graph._module2name.get(dep.target.module)
    layer = dict(deaf.named_modules()).get(name) if name else None
    if isinstance(layer, Units):
        weight = layer.weight_hh if dep.handler == UNITS.prune_out_channels else layer.weight_ih
        weight[:, indices] = 0
    elif graph.is_out_channel_pruning_fn(dep.handler):
        return  # what has its channels in common with its inputs reads none of the others
    elif isinstance(layer, (nn.Linear, *CONVOLUTIONS)):
        silence(layer, indices)


def silence(layer: nn.Linear | nn.modules.conv._ConvNd, indices: Tensor) -> None:
    """Set a layer's weights of some of its input channels to zero."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.Linear) or (layer.groups == 1 and not layer.transposed):
        weight[:, indices] = 0
    elif layer.transposed:
        weight[indices] = 0
    else:
        size = layer.in_channels // layer.groups
        weight.unflatten(0, (layer.groups, -1))[indices // size, :, indices % size] = 0


@torch.no_grad()
def difference(smaller: nn.Module, deaf: nn.Module, context: Context) -> str | None:
    """Say how the smaller model answers otherwise than the one that ignores what left, or return None."""
    inputs = context.task.example_inputs(EXAMPLES)
    plain = call(smaller, inputs)  # as it will be called, with whatever torch computes past the layers
    with without_norms_across_channels(smaller), without_norms_across_channels(deaf):
        got, expected = call(smaller, inputs), call(deaf, inputs)
    if plain.shape != expected.shape:
        return f"the output's shape would be {tuple(plain.shape)}, not {tuple(expected.shape)}"
    distance, size = float((got - expected).abs().max()), float(expected.abs().max())
    if not distance <= TOLERANCE * max(size, 1e-6):
        return (
            "the model without these channels answers otherwise than the model that ignores them: something reads "
            "them, or reckons across them, in a way that cannot be followed"
        )
    return None


@contextmanager
def without_norms_across_channels(model: nn.Module) -> Iterator[None]:
    """Let norms that reckon across channels pass their input on: theirs is a change that one asks for."""
    norms = [module for module in model.modules() if isinstance(module, ACROSS_CHANNELS)]
    hooks = [norm.register_forward_hook(lambda _, inputs, __: inputs[0]) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
