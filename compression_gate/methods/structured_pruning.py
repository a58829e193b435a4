"""Structured pruning: channels, neurons, hidden units and heads leave the model, with everything that reads them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.measurers.cost import macs_of
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.channel_scores import Importance, Scorer, scored
from compression_gate.methods.dependencies import LAYERS, ChannelGroup, channel_groups
from compression_gate.methods.options import inside, not_one_of, outside, refuse
from compression_gate.methods.removal import Plan, removed
from compression_gate.modules.attention import HeadAttention
from compression_gate.modules.opened import obstacles, opened
from compression_gate.modules.surgery import unknown_weights

DEFAULT_RATIO = 0.5
SLACK = 1e-12  # of shares of whole numbers, which floating point may place a little under their value
WIDTHS = ("out_channels", "out_features", "embed_dim", "embedding_dim", "hidden_size")


@dataclass(frozen=True, kw_only=True)
class StructuredPruning:
    """Remove the least important channels, neurons, dimensions of embeddings, hidden units and attention heads.

    torch-pruning's dependency graph finds what must leave together: the next layer's inputs, norms, depthwise
    convolutions, both sides of a residual addition. For it, recurrent layers are taken apart into their layers and
    directions, and attention into its projections. Layers and directions of one recurrent layer keep equally many
    units. Heads leave whole; what is left of an attention whose heads do not fill its width becomes a
    :class:`~compression_gate.modules.attention.HeadAttention`. The model's outputs stay.

    What leaves must leave cleanly: the smaller model has to answer as the larger one that ignores the same channels
    (norms across channels left out), else they are put back and named.

    Args:
        pruning_ratio: share of each layer's channels, units or heads to remove, in [0, 1); 0.5 where no other target
            is set.
        macs_ratio: instead: share of the model's multiply-accumulates to remove, in (0, 1); the least ratio, the same
            for all layers, that removes as much is found on the measured figure.
        importance: what a channel is worth. ``l1`` and ``l2``: the norm of its weights over all layers it touches;
            ``taylor``: the loss it would cost to first order; ``activation``: what it feeds into the layers behind
            it; ``norm_scale``: the scale of its norm; ``random``: the control.
        round_to: keep a multiple of this many channels (at least one multiple), which some processors like; of heads,
            as many as together have such a width.
        ignore: names of modules that keep all their channels, with everything inside them.

    Source: G. Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023; importance: H. Li et al., Pruning
        Filters for Efficient ConvNets, ICLR 2017 (L1); P. Molchanov et al., Importance Estimation for Neural Network
        Pruning, CVPR 2019, eq. 8 (Taylor; ours sums |w·g| over the weights); Z. Liu et al., Network Slimming, ICCV 2017
        (norm scale); hidden units: W. Wen et al., Learning Intrinsic Sparse Structures within LSTM, ICLR 2018, §3;
        heads: P. Michel et al., Are Sixteen Heads Really Better than One?, NeurIPS 2019.
    """

    effect: ClassVar[Effect] = "fewer_parameters"
    pruning_ratio: float | None = None
    macs_ratio: float | None = None
    importance: Importance = "l2"
    round_to: int = 1
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse(
            "pruning_ratio: expected at most one of pruning_ratio, macs_ratio, got both"
            if self.pruning_ratio is not None and self.macs_ratio is not None
            else None,
            outside("pruning_ratio", self.pruning_ratio, 0, 1, open_="]"),
            outside("macs_ratio", self.macs_ratio, 0, 1, open_="[]"),
            not_one_of("importance", self.importance, get_args(Importance)),
            outside("round_to", self.round_to, 1),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a smaller copy of ``model``."""
        closed = obstacles(model, context.task.example_inputs(2))
        found, bundles = self.found(model, closed, context)

        def smaller_by(ratio: float) -> tuple[nn.Module, dict[str, str]]:
            plan, reasons = planned(bundles, ratio, self.round_to)
            smaller, broken = removed(model, set(closed), plan, context)
            for name, text in broken.items():
                reasons |= dict.fromkeys(layers_of(bundles[name]), text)
            return smaller, reasons

        if self.macs_ratio is None:
            smaller, reasons = smaller_by(DEFAULT_RATIO if self.pruning_ratio is None else self.pruning_ratio)
        else:
            smaller, reasons = lightest_enough(smaller_by, found, model, context, self.macs_ratio)
        note(model, smaller, closed | reasons, context)
        if not context.notes.covered and self.pruning_ratio != 0:
            why = "; ".join(f"{name}: {reason}" for name, reason in context.notes.uncovered.items())
            raise CompressionError(f"structured_pruning: no channel can be removed: {why or 'the model has no layers'}")
        return smaller

    def found(
        self, model: nn.Module, closed: Iterable[str], context: Context
    ) -> tuple[list[ChannelGroup], dict[str, list[ChannelGroup]]]:
        """Return every group of channels, and the bundles of those that must shrink alike."""
        ignored = ignored_modules(model, self.ignore)
        apart = scored(opened(model, closed), self.importance, context)
        scorer = Scorer(self.importance, apart, context)
        why = f"importance {self.importance} has nothing to go by: no norm or layer of a known type behind it"
        groups = channel_groups(apart, context, scorer, ignored, why)
        return groups, bundled(groups, apart)

    def together(self, model: nn.Module, context: Context) -> list[list[str]]:
        """Return the layers that lose channels together, for each such group."""
        closed = obstacles(model, context.task.example_inputs(2))
        return [layers_of(bundle) for bundle in self.found(model, closed, context)[1].values()]


def ignored_modules(model: nn.Module, names: tuple[str, ...]) -> set[str]:
    """Return the names in ``names`` with all modules inside them, and what they become when taken apart."""
    known = [name for name, _ in model.named_modules()]
    refuse(*(not_one_of("ignore", name, known) for name in names))
    apart = [name for name, _ in opened(model).named_modules()] if names else []
    return {name for name in (*known, *apart) if inside(name, names)}


def bundled(found: Iterable[ChannelGroup], apart: nn.Module) -> dict[str, list[ChannelGroup]]:
    """Join groups that must shrink alike: the layers and directions of one recurrent layer. By the first one's root.

    A recurrent layer of which a part is in no group gets one that says so.
    """
    bundles: list[tuple[set[str], list[ChannelGroup]]] = []
    for group in found:
        wholes = {whole for whole, _ in group.units.values()}
        mine = [one for one in bundles if one[0] & wholes]
        joined = (
            wholes.union(*(names for names, _ in mine)),
            [other for _, bundle in mine for other in bundle] + [group],
        )
        bundles = [one for one in bundles if not any(one is other for other in mine)] + [joined]
    seen = {name for _, bundle in bundles for group in bundle for name in group.units}
    for wholes, bundle in bundles:
        for whole in sorted(wholes):
            parts = [name for name, _ in apart.named_modules() if name.startswith(f"{whole}.units.")]
            if missing := [name for name in parts if name not in seen]:
                reason = f"{missing[0]} leaves no trace in the model's output"
                bundle.append(ChannelGroup(root=missing[0], layers=frozenset({whole}), scores=None, reason=reason))
    return {bundle[0].root: bundle for _, bundle in bundles}


def layers_of(bundle: Iterable[ChannelGroup]) -> list[str]:
    """Return the layers whose outputs a bundle removes."""
    return sorted({name for group in bundle for name in group.layers})


def planned(bundles: dict[str, list[ChannelGroup]], ratio: float, round_to: int) -> tuple[Plan, dict[str, str]]:
    """Decide which channels leave: (by the bundles' names, reasons for the layers that stay)."""
    plan: Plan = {}
    reasons: dict[str, str] = {}
    for name, bundle in bundles.items():
        leaving = {one.root: chosen(one, ratio, round_to) for one in bundle if one.scores is not None}
        for one in bundle:
            if reason := one.reason or idle(one, leaving[one.root]) or uneven(bundle, leaving):
                others = {} if one.reason is None else dict.fromkeys(layers_of(bundle), f"tied to {one.root}: {reason}")
                reasons |= others | dict.fromkeys(one.layers, reason)
                break
        else:
            plan[name] = leaving
    treated = {layer for name in plan for layer in layers_of(bundles[name])}
    return plan, {layer: reason for layer, reason in reasons.items() if layer not in treated}


def idle(group: ChannelGroup, leaving: list[int]) -> str | None:
    """Say that nothing of a group leaves, or return None."""
    if leaving or group.scores is None:
        return None
    count, what = len(group.scores) // group.head_dim, "heads" if group.head_dim > 1 else "channels"
    return f"has {count} {what}: too few to remove any"


def uneven(bundle: Iterable[ChannelGroup], leaving: dict[str, list[int]]) -> str | None:
    """Say that the layers and directions of a recurrent layer would lose different numbers of units, or return None."""
    lost: dict[str, set[int]] = {}
    for one in bundle:
        gone = set(leaving.get(one.root, ()))
        for whole, places in one.units.values():
            lost.setdefault(whole, set()).add(sum(place in gone for place in places))
    odd = [whole for whole, counts in lost.items() if len(counts) > 1]
    return f"the layers and directions of {odd[0]} would keep different numbers of units" if odd else None


def chosen(group: ChannelGroup, ratio: float, round_to: int) -> list[int]:
    """Return the indices of the channels that leave, equally many of each part and whole heads only."""
    assert group.scores is not None  # a group without scores has a reason to stay
    size = group.head_dim
    if size == 1 and group.parts > 1:
        return lowest_places(group.scores, group.parts, ratio, round_to)
    if size == 1:
        found = []
        for segment in segments_of(group):
            found += [segment[place] for place in lowest_places(group.scores[segment], 1, ratio, round_to)]
        return sorted(found)
    if len(group.scores) % size or group.parts > 1:
        return []
    heads = group.scores.view(-1, size).sum(1)
    leaving = lowest_places(heads, 1, ratio, round_to // math.gcd(round_to, size))
    return [head * size + place for head in leaving for place in range(size)]


def segments_of(group: ChannelGroup) -> list[list[int]]:
    """Return channels that belong to the same hidden units, so that each layer and direction loses its own share."""
    segments: dict[frozenset[str], list[int]] = {}
    members = {name: set(places) for name, (_, places) in group.units.items()}
    for channel in range(0 if group.scores is None else len(group.scores)):
        holders = frozenset(name for name, places in members.items() if channel in places)
        segments.setdefault(holders, []).append(channel)
    return list(segments.values())


def sizes_of(group: ChannelGroup) -> set[int]:
    """Return of how many channels, or heads, a share leaves."""
    if group.scores is None:
        return set()
    if group.head_dim > 1 or group.parts > 1:
        return {len(group.scores) // group.parts // group.head_dim}
    return {len(segment) for segment in segments_of(group)}


def lowest_places(scores: Tensor, parts: int, ratio: float, round_to: int) -> list[int]:
    """Return the indices with the lowest scores, the same places of each of the ``parts``.

    Args:
        scores: ``(C,)``, higher is kept.
        parts: equal parts of the channels that must shrink alike.
    """
    if len(scores) % parts:
        return []
    size = len(scores) // parts
    # A billionth of slack: 10 × (1 − 0.9) is a little under 1 in floating point.
    keep = max(1, math.ceil(size * (1 - ratio) - 1e-9))
    if round_to > 1:
        keep = min(size, max(1, round(keep / round_to)) * round_to)
    order = scores.view(parts, size).mean(0).argsort(stable=True)[: size - keep]
    return sorted(int(index) + part * size for part in range(parts) for index in order)


def lightest_enough(
    smaller_by: Callable[[float], tuple[nn.Module, dict[str, str]]],
    found: Iterable[ChannelGroup],
    model: nn.Module,
    context: Context,
    macs_ratio: float,
) -> tuple[nn.Module, dict[str, str]]:
    """Return the model of the least ratio that removes the wanted share of the multiply-accumulates.

    Only ratios at which a layer loses one more channel are tried, by bisection: the answer is exact.

    Raises:
        CompressionError: no ratio removes as much.
    """
    inputs = context.task.example_inputs(1)
    whole = macs_of(model, inputs)
    sizes = set().union(*(sizes_of(one) for one in found))
    ratios = sorted({count / size for size in sizes for count in range(1, size)})
    results: dict[float, tuple[nn.Module, dict[str, str]]] = {}

    def share(ratio: float) -> float:
        results[ratio] = smaller_by(ratio)
        return 1 - macs_of(results[ratio][0], inputs) / whole

    most = share(ratios[-1]) if ratios else 0.0
    if most < macs_ratio - SLACK:
        raise CompressionError(
            f"structured_pruning: macs_ratio: expected at most {most:.3f}, which is what leaves with all channels but "
            f"one of each layer that can be pruned, got {macs_ratio!r}: lower it, or see what `ignore` keeps"
        )
    least = bisect_left(ratios, True, key=lambda ratio: share(ratio) >= macs_ratio - SLACK)
    return results[ratios[least]]


def note(model: nn.Module, smaller: nn.Module, reasons: dict[str, str], context: Context) -> None:
    """Say which layers became smaller, and which did not and why."""
    before, after = widths_of(model), widths_of(smaller)
    context.notes.covered.extend(name for name, width in before.items() if width != after.get(name))
    unseen = "its channels leave no trace in the model's output, or belong to the layer around it"
    shapes = {name: tuple(value.shape) for name, value in smaller.named_parameters()}
    custom = {
        name: reason
        for name, reason in unknown_weights(model).items()
        if shapes.get(name) == tuple(model.get_parameter(name).shape)
    }
    uncovered = {**custom, **dict.fromkeys(before, unseen), **reasons}
    context.notes.uncovered.update({name: why for name, why in uncovered.items() if name not in context.notes.covered})


def widths_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return how many channels, features or units each layer puts out, and its heads, by name."""
    whole = (nn.MultiheadAttention, HeadAttention)
    attentions = [(name, module) for name, module in model.named_modules() if isinstance(module, whole)]
    parts = {f"{name}.{part}" for name, module in attentions for part, _ in module.named_modules() if part}
    return {
        name: (
            next(int(getattr(module, key)) for key in WIDTHS if hasattr(module, key)),
            getattr(module, "num_heads", 0),
        )
        for name, module in model.named_modules()
        if isinstance(module, (*LAYERS, HeadAttention)) and name not in parts
    }
