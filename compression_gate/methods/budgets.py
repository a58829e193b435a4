"""A total spread over layers by what each of them bears: sparsity, or bits, instead of the same for every layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.methods.allocation import Choice, spread
from compression_gate.methods.base import Context, Method
from compression_gate.methods.chain import name_of
from compression_gate.methods.integer_layers import remark_on_bits
from compression_gate.methods.options import inside, outside
from compression_gate.methods.sensitivity import STRENGTHS, Column, sensitivity_of
from compression_gate.modules.quantized_weights import FEWEST_BITS, MOST_BITS, Scheme
from compression_gate.records.sensitivity import Sensitivity

BITS = (2, 3, 4, 5, 6, 8)
TIE = 0.01  # a hundredth of the outputs' size is far less than any loss that counts
SHARE_STEPS = 32  # sparsities that are tried between 0 and the largest one measured


def measured(variants: Sequence[Method], option: str, model: nn.Module, context: Context) -> dict[str, Any]:
    """Return the rows of a method's variants by layer, and note the table."""
    table = sensitivity_of(model, context, [Column(method=one, option=option) for one in variants])
    context.notes.sensitivity.append(table)
    return table.of(name_of(variants[0]))


def losses_of(rows: Sequence[Sensitivity], *, rising: bool) -> list[float]:
    """Return what each row loses, in their order: the rise of the loss, and a little of how far the outputs moved.

    A gain counts as no loss: it is noise, or would come of any disturbance. So does a step back where more strength
    seems to lose less. The second part decides where the first says nothing, so that a budget is used even by layers
    whose loss does not rise.

    Args:
        rows: in order of strength.
        rising: whether more of it costs more, as zeros do; bits cost less.
    """
    onward = np.maximum.accumulate if rising else np.minimum.accumulate
    rise = onward([max(0.0, row.loss_rise or 0.0) for row in rows])
    moved = onward([row.outputs_moved or 0.0 for row in rows])
    return [float(loss) for loss in rise + TIE * moved]


def bits_by_layer(method: Any, model: nn.Module, context: Context) -> dict[str, int]:
    """Return the bits of each layer so that their mean over all weights is at most ``method.budget``.

    The layers' losses are taken to add up, which holds while each of them is small.

    Raises:
        CompressionError: no layer can be treated, or the layers cannot get down to the budget.
    """
    variants = [dataclasses.replace(method, budget=None, bits=bits) for bits in BITS]
    rows = measured(variants, "bits", model, context)
    sizes = {layer: weights_in(model, cells[0].members) for layer, cells in rows.items()}
    choices = [
        [
            Choice(cost=sizes[layer] * cell.strength, loss=loss)
            for cell, loss in zip(cells, losses_of(cells, rising=False), strict=True)
        ]
        for layer, cells in rows.items()
    ]
    picked = within(choices, method.budget * sum(sizes.values()), sum(sizes.values()), method, context)
    found = {layer: int(cells[index].strength) for (layer, cells), index in zip(rows.items(), picked, strict=True)}
    mean = sum(found[layer] * size for layer, size in sizes.items()) / sum(sizes.values())
    told = ", ".join(f"{layer} {bits}" for layer, bits in found.items())
    for bits in sorted(set(found.values())):
        remark_on_bits(bits, context)
    context.notes.remarks.append(f"budget {method.budget:g}: {mean:.3f} bits a weight: {told}")
    return {member: found[layer] for layer, cells in rows.items() for member in cells[0].members}


def budget_problems(budget: float | None, bits: int) -> list[str]:
    """Say what is wrong with a budget of bits, or with bits beside one."""
    found = [outside("budget", budget, FEWEST_BITS, MOST_BITS)]
    if budget is not None and bits != MOST_BITS:
        found.append(f"bits: expected none beside a budget, got {bits!r}")
    return [problem for problem in found if problem is not None]


def schemes(method: Any, model: nn.Module, context: Context) -> Callable[[str], Scheme]:
    """Return how each layer's weights are held, by its name: as the options say, with the bits that a budget gives it.

    Raises:
        CompressionError: the layers cannot get down to the budget.
    """
    scheme = Scheme(
        bits=method.bits, granularity=method.granularity, group_size=method.group_size, symmetric=method.symmetric
    )
    by_layer = {} if method.budget is None else bits_by_layer(method, model, context)

    def scheme_of(name: str) -> Scheme:
        # A layer may be a part of one that the table knows as a whole.
        bits = next((bits for layer, bits in by_layer.items() if inside(name, (layer,))), scheme.bits)
        return dataclasses.replace(scheme, bits=bits)

    return scheme_of


def shares_by_weight(
    method: Any, model: nn.Module, treated: Mapping[str, nn.Parameter], context: Context
) -> dict[str, float]:
    """Return the sparsity of each weight so that together they reach ``method.budget``, to the last weight.

    Between the sparsities that were measured the loss is taken to rise evenly, and the layers' losses to add up.

    Raises:
        CompressionError: no layer can be treated, or the layers cannot get as sparse.
    """
    option, strengths = STRENGTHS["magnitude_pruning"]
    variants = [
        dataclasses.replace(method, budget=None, sparsity=float(strength), epochs=0, schedule="one_shot", regrowth=0.0)
        for strength in strengths
    ]
    rows = measured(variants, option, model, context)
    layers = {
        layer: Layer(cells, {name: weight for name, weight in treated.items() if held(name, cells[0].members)})
        for layer, cells in rows.items()
    }
    layers = {layer: one for layer, one in layers.items() if one.size}
    total = sum(one.size for one in layers.values())
    choices = [[Choice(cost=one.kept(share), loss=one.loss(share)) for share in one.shares] for one in layers.values()]
    picked = within(choices, (1 - method.budget) * total, total, method, context)
    zeros = {
        layer: one.size - one.kept(one.shares[index])
        for (layer, one), index in zip(layers.items(), picked, strict=True)
    }
    exact(zeros, layers, int(method.budget * total + 1e-9))
    told = ", ".join(f"{layer} {zeros[layer] / one.size:.3f}" for layer, one in layers.items())
    context.notes.remarks.append(f"budget {method.budget:g}: {sum(zeros.values()) / total:.4f} zeros: {told}")
    found = {name: zeros[layer] / one.size for layer, one in layers.items() for name in one.weights}
    return {name: found.get(name, 0.0) for name in treated}  # what has no figures gets no zeros


class Layer:
    """A row of the table as the spread of sparsity wants it."""

    def __init__(self, cells: Sequence[Sensitivity], weights: Mapping[str, nn.Parameter]) -> None:
        self.weights = dict(weights)
        self.size = sum(weight.numel() for weight in weights.values())
        self.zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        start = self.zeros / self.size if self.size else 0.0
        losses = losses_of(cells, rising=True)
        known = [(float(cell.strength), loss) for cell, loss in zip(cells, losses, strict=True)]
        self.known = [(start, 0.0), *((share, loss) for share, loss in known if share > start)]
        most = self.known[-1][0]
        self.shares = [start + (most - start) * step / SHARE_STEPS for step in range(SHARE_STEPS + 1)]

    def loss(self, share: float) -> float:
        """What is lost at a sparsity, between the measured ones."""
        shares, losses = zip(*self.known, strict=True)
        return float(np.interp(share, shares, losses))

    def kept(self, share: float) -> int:
        """How many weights are left at a sparsity."""
        return self.size - max(self.zeros, int(share * self.size + 1e-9))


def exact(zeros: dict[str, int], layers: Mapping[str, Layer], wanted: int) -> None:
    """Give back, in place, the zeros beyond the total, where they cost most."""

    def price(layer: str) -> float:
        one, share = layers[layer], zeros[layer] / layers[layer].size
        return (one.loss(share) - one.loss(max(0.0, share - 1 / SHARE_STEPS))) / one.size

    for layer in sorted(zeros, key=price, reverse=True):
        back = min(sum(zeros.values()) - wanted, zeros[layer] - layers[layer].zeros)
        zeros[layer] -= max(0, back)


def within(choices: Sequence[Sequence[Choice]], limit: float, total: float, method: Any, context: Context) -> list[int]:
    """Spread, and say in the option's own terms what is out of reach.

    Raises:
        CompressionError: no layer can be treated, or the limit is under the cheapest choices.
    """
    if not choices:
        why = "; ".join(
            dict.fromkeys(
                f"{row.layer}: {row.reason}" for table in context.notes.sensitivity for row in table.rows if row.reason
            )
        )
        raise CompressionError(f"{name_of(method)}: budget: no layer can be treated: {why or 'none has weights'}")
    least = sum(min(choice.cost for choice in row) for row in choices)
    if least > limit:
        reach = f"{least / total:.3f} or more" if "bits" in vars(method) else f"at most {1 - least / total:.3f}"
        raise CompressionError(
            f"{name_of(method)}: budget: expected {reach}, which the layers together can get to, got {method.budget!r}"
        )
    return spread(choices, limit)


def weights_in(model: nn.Module, members: Sequence[str]) -> int:
    """Count the weights of layers, biases apart."""
    return sum(
        parameter.numel()
        for member in members
        for name, parameter in model.get_submodule(member).named_parameters()
        if parameter.dim() >= 2 and "bias" not in name.rpartition(".")[2]
    )


def held(weight: str, members: Sequence[str]) -> bool:
    """Whether a weight is one of these layers'."""
    return inside(weight.rpartition(".")[0], members)
