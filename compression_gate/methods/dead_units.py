"""Units that nothing reads, or that never say anything, leave the model."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context
from compression_gate.methods.channel_scores import channel_axis, repeats
from compression_gate.methods.dependencies import NORMS, OUTGOING, ROOTS, channel_groups
from compression_gate.methods.removal import EXAMPLES, Plan, removed
from compression_gate.modules.opened import Units, obstacles, opened
from compression_gate.modules.surgery import CONVOLUTIONS
from compression_gate.tasks.calling import call

BLOCK = 16  # channels of convolutions that runtimes compute side by side at most
SAME = 1e-5  # of the largest output: sums in another order


@torch.enable_grad()  # the model is followed by what autograd remembers
def without_dead_units(model: nn.Module, context: Context, ignored: set[str]) -> tuple[nn.Module, dict[str, int]]:
    """Return a copy without units whose weights are all zero, or whom only zeros read; and how many left each layer.

    It answers as the model did, or units that nobody reads leave alone, or none. Heads, hidden units of recurrent
    layers, and channels of grouped convolutions stay.
    """
    closed = obstacles(model, context.task.example_inputs(2))
    for wanted in ("silent", "unread"):
        try:
            plan = dead(model, closed, context, ignored, silent=wanted == "silent")
            smaller, _ = removed(model, set(closed), plan, context) if plan else (model, {})
        except CompressionError:  # the model cannot be followed: it stays as it is
            return model, {}
        if plan and same(model, smaller, context):
            return smaller, shrunk(model, smaller)
    return model, {}


def removable_biases(model: nn.Module, context: Context, ignored: set[str]) -> dict[str, str]:
    """Return biases of linear and convolution layers whose units can leave, with the weights beside them."""
    try:
        closed = obstacles(model, context.task.example_inputs(2))
        groups = channel_groups(traceable(opened(model, closed)), context, dead_or_alive(silent=True), ignored, "")
    except CompressionError:
        return {}
    layers = {name for group in groups if group.reason is None for name in group.layers}
    known = dict(model.named_parameters())
    return {
        f"{name}.bias": f"{name}.weight"
        for name in sorted(layers)
        if {f"{name}.bias", f"{name}.weight"} <= known.keys()
        and isinstance(model.get_submodule(name), ROOTS)
        and not getattr(model.get_submodule(name), "transposed", False)
    }


def traceable(apart: nn.Module) -> nn.Module:
    """Return a copy whose weights all take part in the trace."""
    subject = copy.deepcopy(apart).eval()
    for parameter in subject.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return subject


def dead(model: nn.Module, closed: Any, context: Context, ignored: set[str], *, silent: bool) -> Plan:
    """Return the channels that may leave, by the roots of their groups; some of each group stay.

    The width of a convolution stays as even as it was, up to BLOCK: channels without weights take hardly a byte in the
    coded file, and 63 channels take longer than 64.
    """
    apart = traceable(opened(model, closed))
    plan: Plan = {}
    for one in channel_groups(apart, context, dead_or_alive(silent=silent), ignored, "nothing known reads it"):
        if one.scores is None or one.head_dim > 1 or one.parts > 1 or one.units:
            continue
        leaving = (one.scores == 0).nonzero().flatten().tolist()
        convolved = any(isinstance(model.get_submodule(name), CONVOLUTIONS) for name in one.layers)
        block = math.gcd(len(one.scores), BLOCK) if convolved else 1
        if leaving := leaving[: whole_blocks(len(leaving), len(one.scores), block)]:
            plan[one.root] = {one.root: leaving}
    return plan


def whole_blocks(leaving: int, width: int, block: int) -> int:
    """Return how many of a width's channels leave: whole blocks, and not the last one."""
    return min(leaving // block * block, width - block)


def dead_or_alive(*, silent: bool) -> Any:
    """Return what gives each channel of a group 0 if it can leave, else 1.

    Args:
        silent: whether those that have no weights may leave, too; not only those that nobody reads.
    """

    @torch.no_grad()
    def score(group: Any) -> Tensor | None:
        spoken, read = torch.zeros(len(group[0].idxs)), torch.zeros(len(group[0].idxs))
        readers = 0
        for index in range(len(group)):
            item = group[index]
            layer, outgoing = item.dep.target.module, item.dep.handler in OUTGOING
            if not isinstance(layer, (*ROOTS, *NORMS, Units)):
                continue
            if any(root is None for root in item.root_idxs):
                return None
            readers += not outgoing and not isinstance(layer, NORMS)
            total = spoken if outgoing or isinstance(layer, NORMS) else read
            for values in sizes(layer, outgoing):
                indices = torch.as_tensor(item.idxs)
                if len(indices) == 0 or int(indices.max()) >= len(values):
                    return None
                total.index_add_(0, torch.as_tensor(item.root_idxs), values[indices])
        if not readers:
            return None
        return ((read > 0) & ((spoken > 0) | (not silent))).float()

    return score


def sizes(layer: Any, outgoing: bool) -> list[Tensor]:
    """Return what a layer's weights, and biases of what it gives, are in all, each ``(channels,)``."""
    if isinstance(layer, NORMS):
        return [] if getattr(layer, "bias", None) is None else [layer.bias.abs()]
    if isinstance(layer, Units):
        return [layer.weight_ih.abs().sum(1 if outgoing else 0)]
    weight = layer.weight.abs().transpose(0, channel_axis(layer, outgoing)).flatten(1).sum(1)
    found = [weight.repeat(repeats(layer, outgoing))]
    if outgoing and getattr(layer, "bias", None) is not None:
        found.append(layer.bias.abs())
    return found


@torch.no_grad()
def same(model: nn.Module, smaller: nn.Module, context: Context) -> bool:
    """Whether both answer alike."""
    inputs = context.task.example_inputs(EXAMPLES)
    before, after = call(model, inputs), call(smaller, inputs)
    return before.shape == after.shape and float((before - after).abs().max()) <= SAME * float(before.abs().max())


def shrunk(model: nn.Module, smaller: nn.Module) -> dict[str, int]:
    """Return by how many rows each weight lost."""
    after = dict(smaller.named_parameters())
    return {
        name.rpartition(".")[0]: len(value) - len(after[name])
        for name, value in model.named_parameters()
        if name in after and value.dim() > 1 and len(after[name]) < len(value)
    }
