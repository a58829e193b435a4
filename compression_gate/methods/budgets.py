"""A total spread over layers by what each of them bears, instead of the same for every layer.

The total is a share of zeros, mean bits, or the bytes that the coder itself makes of the layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from compression_gate.codec.coded_size import coded_bytes
from compression_gate.errors import CompressionError
from compression_gate.methods.allocation import Choice, spread
from compression_gate.methods.base import Context, Method, Notes
from compression_gate.methods.chain import name_of
from compression_gate.methods.options import inside, outside
from compression_gate.methods.sensitivity import STRENGTHS, Column, members_of, sensitivity_of
from compression_gate.modules.quantized_weights import FEWEST_BITS, MOST_BITS, Scheme
from compression_gate.records.sensitivity import Sensitivity

BITS = (2, 3, 4, 5, 6, 8)
TIE = 0.01  # a hundredth of the outputs' size is far less than any loss that counts
NEXT_TO_NOTHING = 1e-5  # of the loss: where nothing is lost, zeros that are not needed are not made
SHARE_STEPS = 32  # sparsities that are tried between 0 and the largest one measured


def measured(
    variants: Sequence[Method], option: str, model: nn.Module, context: Context, *, coded: bool
) -> dict[str, Any]:
    """Return the rows of a method's variants by layer, and note the table; ``coded``: the coder is asked as well."""
    table = sensitivity_of(model, context, [Column(method=one, option=option, coded=coded) for one in variants])
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

    With ``budget_bytes``, so that the coder makes at most so many bytes of the whole model. The layers' losses are
    taken to add up, which holds while each of them is small.

    Raises:
        CompressionError: no layer can be treated, or the layers cannot get down to the budget.
    """
    coded = method.budget_bytes is not None
    variants = [dataclasses.replace(method, budget=None, budget_bytes=None, bits=bits) for bits in BITS]
    rows = measured(variants, "bits", model, context, coded=coded)
    sizes = {layer: weights_in(model, cells[0].members) for layer, cells in rows.items()}
    total = sum(sizes.values())
    choices = [
        [
            Choice(cost=cell.coded_bytes if coded else sizes[layer] * cell.strength, loss=loss)
            for cell, loss in zip(cells, losses_of(cells, rising=False), strict=True)
        ]
        for layer, cells in rows.items()
    ]
    if coded:
        picked = within_bytes(choices, rows, variants[-1], model, method, context)
    else:
        picked = within(choices, method.budget * total, lambda least: f"{least / total:.3f} or more", method, context)
    found = {layer: int(cells[index].strength) for (layer, cells), index in zip(rows.items(), picked, strict=True)}
    mean = sum(found[layer] * size for layer, size in sizes.items()) / total
    told = ", ".join(f"{layer} {bits}" for layer, bits in found.items())
    context.notes.remarks.append(f"{budget_told(method)}: {mean:.3f} bits a weight: {told}")
    return {member: found[layer] for layer, cells in rows.items() for member in cells[0].members}


def budget_problems(budget: float | None, budget_bytes: int | None, bits: int) -> list[str]:
    """Say what is wrong with a budget of bits or bytes, or with bits beside one."""
    found = [outside("budget", budget, FEWEST_BITS, MOST_BITS), outside("budget_bytes", budget_bytes, 1)]
    if budget is not None and budget_bytes is not None:
        found.append("budget_bytes: expected none beside a budget of bits: keep one of them")
    if (budget is not None or budget_bytes is not None) and bits != MOST_BITS:
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
    spread_out = method.budget is not None or method.budget_bytes is not None
    by_layer = bits_by_layer(method, model, context) if spread_out else {}

    def scheme_of(name: str) -> Scheme:
        # A layer may be a part of one that the table knows as a whole.
        bits = next((bits for layer, bits in by_layer.items() if inside(name, (layer,))), scheme.bits)
        return dataclasses.replace(scheme, bits=bits)

    return scheme_of


def shares_by_weight(
    method: Any, model: nn.Module, treated: Mapping[str, nn.Parameter], context: Context
) -> dict[str, float]:
    """Return the sparsity of each weight so that together they reach ``method.budget``, to the last weight.

    With ``budget_bytes``, so that the coder makes at most so many bytes of the whole model. Between the sparsities that
    were measured loss and bytes are taken to change evenly, and the layers' losses to add up.

    Raises:
        CompressionError: no layer can be treated, or the layers cannot get as sparse.
    """
    option, strengths = STRENGTHS["magnitude_pruning"]
    coded = method.budget_bytes is not None
    once = {"budget": None, "budget_bytes": None, "epochs": 0, "schedule": "one_shot", "regrowth": 0.0}
    variants = [dataclasses.replace(method, sparsity=float(strength), **once) for strength in strengths]
    rows = measured(variants, option, model, context, coded=coded)
    layers = {
        layer: Layer(
            cells,
            {name: weight for name, weight in treated.items() if held(name, cells[0].members)},
            coded_bytes(members_of(model, cells[0].members)) if coded else None,
        )
        for layer, cells in rows.items()
    }
    layers = {layer: one for layer, one in layers.items() if one.size}
    total = sum(one.size for one in layers.values())
    choices = [[Choice(cost=one.cost(share), loss=one.loss(share)) for share in one.shares] for one in layers.values()]
    if coded:
        picked = within_bytes(choices, {layer: rows[layer] for layer in layers}, variants[-1], model, method, context)
    else:
        limit = (1 - method.budget) * total
        picked = within(choices, limit, lambda least: f"at most {1 - least / total:.3f}", method, context)
    zeros = {
        layer: one.size - one.kept(one.shares[index])
        for (layer, one), index in zip(layers.items(), picked, strict=True)
    }
    if not coded:
        exact(zeros, layers, int(method.budget * total + 1e-9))
    told = ", ".join(f"{layer} {zeros[layer] / one.size:.3f}" for layer, one in layers.items())
    context.notes.remarks.append(f"{budget_told(method)}: {sum(zeros.values()) / total:.4f} zeros: {told}")
    found = {name: zeros[layer] / one.size for layer, one in layers.items() for name in one.weights}
    return {name: found.get(name, 0.0) for name in treated}  # what has no figures gets no zeros


class Layer:
    """A row of the table as the spread of sparsity wants it; ``coded``: what the coder makes of it as it is [bytes]."""

    def __init__(
        self, cells: Sequence[Sensitivity], weights: Mapping[str, nn.Parameter], coded: int | None = None
    ) -> None:
        self.weights = dict(weights)
        self.size = sum(weight.numel() for weight in weights.values())
        self.zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        start = self.zeros / self.size if self.size else 0.0
        losses = losses_of(cells, rising=True)
        known = [(float(cell.strength), loss) for cell, loss in zip(cells, losses, strict=True)]
        self.known = [(start, 0.0), *((share, loss) for share, loss in known if share > start)]
        sizes = [(float(cell.strength), cell.coded_bytes or 0) for cell in cells if cell.strength > start]
        self.coded = None if coded is None else [(start, coded), *sizes]
        most = self.known[-1][0]
        self.shares = [start + (most - start) * step / SHARE_STEPS for step in range(SHARE_STEPS + 1)]

    def loss(self, share: float) -> float:
        """What is lost at a sparsity, between the measured ones; never the same for more zeros."""
        shares, losses = zip(*self.known, strict=True)
        return float(np.interp(share, shares, losses)) + NEXT_TO_NOTHING * share

    def cost(self, share: float) -> float:
        """What a sparsity costs: bytes, between the measured ones, or weights that are left."""
        if self.coded is None:
            return self.kept(share)
        shares, sizes = zip(*self.coded, strict=True)
        return float(np.interp(share, shares, sizes))

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


def within_bytes(
    choices: Sequence[Sequence[Choice]],
    rows: Mapping[str, Sequence[Sensitivity]],
    variant: Method,
    model: nn.Module,
    method: Any,
    context: Context,
) -> list[int]:
    """Spread what ``budget_bytes`` leaves the layers of these rows: the coded file holds the others, too.

    Args:
        variant: the method without a budget: norms that it folds are not there any more.
    """
    everywhere = variant.apply(model, dataclasses.replace(context, notes=Notes(), checkpoint=None))
    others = coded_bytes(everywhere, without=[member for cells in rows.values() for member in cells[0].members])
    return within(
        choices, method.budget_bytes - others, lambda least: f"{others + least:,.0f} or more", method, context
    )


def budget_told(method: Any) -> str:
    """Name a budget as the user wrote it."""
    if method.budget_bytes is not None:
        return f"budget_bytes {method.budget_bytes:,}"
    return f"budget {method.budget:g}"


def within(
    choices: Sequence[Sequence[Choice]],
    limit: float,
    reach: Callable[[float], str],
    method: Any,
    context: Context,
) -> list[int]:
    """Spread, and say in the option's own terms, which ``reach`` has for the least cost, what is out of reach.

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
        option, _, given = budget_told(method).partition(" ")
        raise CompressionError(
            f"{name_of(method)}: {option}: expected {reach(least)}, which the layers together can get to, got {given}"
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
