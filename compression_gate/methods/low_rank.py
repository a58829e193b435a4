"""Low rank: one wide layer becomes two or three thin ones, by SVD, Tucker or CP."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError, TaskError
from compression_gate.methods.allocation import Choice, spread
from compression_gate.methods.base import Context, Effect, Notes
from compression_gate.methods.decompositions import (
    canonical,
    leading,
    rank_for,
    square_root,
    tails,
    tucker,
    unfolded,
)
from compression_gate.methods.distillation import Distillation
from compression_gate.methods.options import inside, not_exactly_one, not_one_of, outside, refuse
from compression_gate.methods.thin_layers import CONVOLUTIONS, convolutions, linears, pointwise
from compression_gate.modules.surgery import WEIGHTED, leaves, replace, ties, unknown_weights
from compression_gate.tasks.calling import call
from compression_gate.tasks.task import seeded

Kind = Literal["tucker", "cp"]
Ranks = tuple[int, ...]
TREATED = (nn.Linear, *CONVOLUTIONS)
BATCH_SIZE = 128
# Of the inputs' mean square, added to every direction: those in which the few calibration examples do not vary keep
# some worth.
SHRINKAGE = 0.01
SILENCE = 1e-30  # mean square of inputs that are all zero: anything is as good as anything else then
BUDGET_STEPS = 32  # choices a layer under `budget`, evenly spaced in MACs


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Factorise linear layers and 1×1 convolutions by SVD, other convolutions by Tucker or CP.

    Exactly one of ``energy``, ``ratio``, ``rank`` and ``budget`` says how thin. A layer that would not get smaller
    stays, and is named.

    Args:
        energy: share of the squared singular values to keep, in (0, 1), of each channel mode; not for CP, which has
            no singular values.
        ratio: share of each layer's MACs to keep at most, in (0, 1); Tucker's two ranks are those that lose least.
        rank: for every layer; Tucker's two ranks alike, a mode with fewer channels stays whole.
        budget: share of all treated layers' MACs together to keep at most, in (0, 1), spread so that the summed
            shares of lost output are least; not for CP.
        kind: of the decomposition of kernels with more than one place.
        calibrated: whether what is cut off is measured by the layer's outputs on the calibration split, or by its
            weights alone. At the same ranks the outputs stay closer.
        ignore: names of modules that stay, with everything inside them.
        epochs: of distillation from the reference afterwards, with that method's defaults; 0 for none.
        learning_rate: of these, if there are any; the default is that of ``train``.

    Source: E. Denton et al., Exploiting Linear Structure Within Convolutional Networks, NIPS 2014, §3 (SVD, and CP over
        both channel modes with the kernel's places as one third mode, as here); Y.-D. Kim et al., ICLR 2016 (Tucker);
        V. Lebedev et al., ICLR 2015 (CP, theirs with a mode for each axis of the kernel). Calibrated: X. Zhang et al.,
        Accelerating Very Deep Convolutional Networks, PAMI 2016, §3.1 (output channels by the principal components of
        the outputs); X. Wang et al., SVD-LLM, ICLR 2025, §3.1 (input channels by whitening). The ranks of Tucker under
        ratio: by the bound of De Lathauwer et al. 2000, eq. 24, the sum of what both modes cut off.
    """

    effect: ClassVar[Effect] = "fewer_parameters"
    energy: float | None = None
    ratio: float | None = None
    rank: int | None = None
    budget: float | None = None
    kind: Kind = "tucker"
    calibrated: bool = True
    ignore: tuple[str, ...] = ()
    epochs: int = 0
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        by_loss = {"energy": self.energy, "budget": self.budget}
        refuse(
            not_exactly_one(energy=self.energy, ratio=self.ratio, rank=self.rank, budget=self.budget),
            outside("energy", self.energy, 0, 1, open_="[]"),
            outside("ratio", self.ratio, 0, 1, open_="[]"),
            outside("rank", self.rank, 1),
            outside("budget", self.budget, 0, 1, open_="[]"),
            not_one_of("kind", self.kind, get_args(Kind)),
            outside("epochs", self.epochs, 0),
            outside("learning_rate", self.learning_rate, 0, open_="["),
            *(
                f"{name}: goes by singular values, which CP does not have: expected ratio or rank with kind cp, "
                f"got {value!r}"
                for name, value in by_loss.items()
                if self.kind == "cp" and value is not None
            ),
        )

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a factorised copy of ``model``."""
        known = [name for name, _ in model.named_modules()]
        refuse(*(not_one_of("ignore", name, known) for name in self.ignore))
        smaller = copy.deepcopy(model).eval()
        notes = context.notes
        notes.uncovered.update(reasons(smaller, self))
        views = {
            name: View(layer, seen, self)
            for name, layer, seen in observed(smaller, context, self.calibrated, notes.uncovered)
        }
        for name, ranks in chosen(views, self).items():
            if isinstance(ranks, str):
                notes.uncovered[name] = ranks
                continue
            random = torch.Generator().manual_seed(context.train.seed)
            problem = put(smaller, name, views[name].factorised(ranks, random), context)
            if problem is None:
                notes.covered.append(name)
            else:
                notes.uncovered[name] = problem
        if not notes.covered:
            why = "; ".join(f"{name}: {reason}" for name, reason in notes.uncovered.items())
            raise CompressionError(f"low_rank: no layer can be factorised: {why or 'the model has no layers'}")
        return self.tuned(smaller, context) if self.epochs else smaller

    def tuned(self, model: nn.Module, context: Context) -> nn.Module:
        """Return the model after distillation; what that covered is not told a second time."""
        inner = dataclasses.replace(context, notes=Notes())
        context.notes.remark_frozen(model)
        tuned = Distillation(epochs=self.epochs, learning_rate=self.learning_rate).apply(model, inner)
        context.notes.curves.update(inner.notes.curves)
        context.notes.remarks.extend(inner.notes.remarks)
        return tuned


def reasons(model: nn.Module, options: LowRank) -> dict[str, str]:
    """Return why layers and weights cannot be factorised, by name; those that can are not in it."""
    free = {name for name, _ in leaves(model, TREATED)}
    tied = {name.rpartition(".")[0] for group in ties(model) for name in group}
    found = unknown_weights(model)
    for name, layer in model.named_modules():
        if not isinstance(layer, WEIGHTED):
            continue
        kind = type(layer).__name__
        if inside(name, options.ignore):
            found[name] = "it is in `ignore`"
        elif type(layer) not in TREATED:
            found[name] = f"{kind}: expected one of {', '.join(one.__name__ for one in TREATED)}"
        elif not name:
            found[name] = "is the whole model: expected a layer inside one"
        elif name not in free:
            found[name] = "the module around it reads its weight without calling it"
        elif name in tied:
            found[name] = "shares its weights with another layer"
        elif isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
            found[name] = f"has {layer.groups} groups: each is thin already"
    return found


@dataclass(kw_only=True)
class Seen:
    """What a layer met on the calibration split.

    Args:
        inputs, outputs: sums of second moments ``(I, I)`` and, without the bias, ``(O, O)``; empty if not wanted.
        places_in, places_out: vectors that came in and went out, all examples together.
    """

    inputs: Tensor = field(default_factory=lambda: torch.empty(0))
    outputs: Tensor = field(default_factory=lambda: torch.empty(0))
    places_in: int = 0
    places_out: int = 0

    @torch.no_grad()
    def add(self, layer: nn.Module, inputs: Tensor, outputs: Tensor, *, moments: bool) -> None:
        """Count one call."""
        into, out = channels_last(layer, inputs), channels_last(layer, outputs)
        self.places_in += len(into)
        self.places_out += len(out)
        if moments:
            out = out - layer.bias if isinstance(layer.bias, Tensor) else out
            self.inputs = (into.T @ into).double() + (self.inputs if self.inputs.numel() else 0)
            self.outputs = (out.T @ out).double() + (self.outputs if self.outputs.numel() else 0)


def channels_last(layer: nn.Module, values: Tensor) -> Tensor:
    """Return activations as vectors of channels, ``(places, C)``."""
    axis = -1 - len(getattr(layer, "kernel_size", ()))
    return values.detach().movedim(axis, -1).reshape(-1, values.shape[axis])


def observed(
    model: nn.Module, context: Context, moments: bool, left: dict[str, str]
) -> Iterator[tuple[str, nn.Module, Seen]]:
    """Yield each layer that is not in ``left`` with what it met; layers that are never called are added to it."""
    layers = {name: layer for name, layer in leaves(model, TREATED) if name not in left}
    found = {layer: Seen() for layer in layers.values()}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[layer].add(layer, inputs[0], output, moments=moments)

    hooks = [layer.register_forward_hook(note) for layer in layers.values()]
    try:
        with torch.no_grad(), seeded(context.train.seed):
            for batch in context.task.batches("calibration", BATCH_SIZE):
                call(model, batch.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if found[layer].places_out:
            yield name, layer, found[layer]
        else:
            left[name] = "is never called on the calibration split"


class View:
    """A layer's kernel ``(O, I, K)`` as the decompositions want it, and what each rank costs and loses.

    ``weighted`` is the kernel times the root of its inputs' second moments; ``restore`` ``(I, I)`` undoes that. Both
    are the plain kernel and the identity where nothing was calibrated. Ranks are ``(r,)`` for SVD and CP and
    ``(outer, inner)`` for Tucker.
    """

    def __init__(self, layer: nn.Module, seen: Seen, options: LowRank) -> None:
        self.layer, self.seen, self.options = layer, seen, options
        weight = layer.get_parameter("weight").detach().double()
        self.kernel = weight.reshape(*weight.shape[:2], -1)
        self.outer, self.inner, self.taps = self.kernel.shape
        self.form = "svd" if self.taps == 1 else options.kind
        self.weighted, self.restore = self.kernel, torch.eye(self.inner, dtype=torch.double)
        outputs = unfolded(self.kernel, 0)
        if options.calibrated:
            power = (seen.inputs.trace() / seen.places_in / self.inner).clamp_min(SILENCE)
            spared = SHRINKAGE * power * torch.eye(self.inner, dtype=torch.double)
            root, self.restore = square_root((1 - SHRINKAGE) * seen.inputs / seen.places_in + spared)
            self.weighted = torch.einsum("oik,ij->ojk", self.kernel, root)
            outputs = (1 - SHRINKAGE) * seen.outputs / seen.places_out + SHRINKAGE * power * outputs
        self.squares, self.axes = leading(outputs)
        self.inner_squares = leading(unfolded(self.weighted, 1))[0]

    @property
    def full_rank(self) -> int:
        """The rank from which on nothing is cut off."""
        return min(self.outer, self.inner) if self.form == "svd" else max(self.outer, self.inner)

    def costs(self, ranks: Ranks | None, *, places_in: float = 1.0, places_out: float = 1.0) -> float:
        """Count the weights of the factors, each times the places it is applied at; None for the layer as it is."""
        if ranks is None:
            return self.outer * self.inner * self.taps * places_out
        if self.form != "tucker":
            (rank,) = ranks
            first = places_out if self.form == "svd" else places_in
            return rank * (
                self.inner * first + (self.taps if self.form == "cp" else 0) * places_out + self.outer * places_out
            )
        outer, inner = ranks
        first = self.inner * inner * places_in if inner < self.inner else 0
        last = self.outer * outer * places_out if outer < self.outer else 0
        return first + outer * inner * self.taps * places_out + last

    def macs(self, ranks: Ranks | None) -> float:
        """Count multiply-accumulates over the calibration split."""
        return self.costs(ranks, places_in=self.seen.places_in, places_out=self.seen.places_out)

    def loss(self, ranks: Ranks) -> float:
        """Return the share of the squared outputs, or weights, that is cut off: for Tucker, a bound on it."""
        lost = float(tails(self.squares)[ranks[0]])
        return lost + float(tails(self.inner_squares)[ranks[1]]) if self.form == "tucker" else lost

    def within(self, ratio: float) -> Ranks | None:
        """Return the ranks that lose least at no more than this share of the MACs, or None if rank 1 is too much."""
        room = ratio * self.macs(None) * (1 + 1e-9)
        if self.form != "tucker":
            rank = min(math.floor(room / self.macs((1,))), self.outer if self.form == "svd" else 10**9)
            return (rank,) if rank >= 1 else None
        outer_tails, inner_tails = tails(self.squares).tolist(), tails(self.inner_squares).tolist()
        best: tuple[float, Ranks] | None = None
        for inner in range(1, self.inner + 1):
            outer = self.outer if self.macs((self.outer, inner)) <= room else self.widest(inner, room)
            if outer >= 1 and (best is None or outer_tails[outer] + inner_tails[inner] < best[0]):
                best = outer_tails[outer] + inner_tails[inner], (outer, inner)
        return best[1] if best else None

    def widest(self, inner: int, room: float) -> int:
        """Return the largest outer rank under the full one whose MACs are in ``room``; 0 if there is none."""
        first = self.macs((1, inner))
        more = self.macs((2, inner)) - first if self.outer > 2 else math.inf
        return 0 if first > room else min(self.outer - 1, 1 + math.floor((room - first) / more))

    def asked(self) -> Ranks | str:
        """Return the ranks that ``energy``, ``ratio`` or ``rank`` ask for, or why there are none."""
        options = self.options
        if options.rank is not None:
            if self.form != "cp" and options.rank >= self.full_rank:
                return f"rank {options.rank} is not under its full rank {self.full_rank}"
            both = (min(options.rank, self.outer), min(options.rank, self.inner))
            return both if self.form == "tucker" else (options.rank,)
        if options.energy is not None:
            outer = rank_for(self.squares, options.energy)
            return (outer, rank_for(self.inner_squares, options.energy)) if self.form == "tucker" else (outer,)
        ratio = options.ratio or 0.0
        return self.within(ratio) or f"even rank 1 would keep more than {ratio:g} of its MACs"

    def growth(self, ranks: Ranks) -> str | None:
        """Say what these ranks would make larger, or None."""
        for what, before, after in (
            ("weights", self.costs(None), self.costs(ranks)),
            ("MACs", self.macs(None), self.macs(ranks)),
        ):
            if after >= before:
                shown = " and ".join(map(str, ranks))
                return f"rank {shown} would need {after:.0f} {what} in place of {before:.0f}: it would not get smaller"
        return None

    def factorised(self, ranks: Ranks, random: torch.Generator) -> nn.Sequential:
        """Return the thin layers."""
        if self.form == "cp":
            outer, inner, taps = canonical(self.weighted, ranks[0], random)
            return convolutions(self.layer, outer, taps.T[:, None], (self.restore @ inner).T, groups=ranks[0])
        axes = self.axes[:, : ranks[0]]
        if self.form == "svd":
            # The outputs' principal axes: what the SVD of the weighted kernel gives, without its inverse.
            build = linears if isinstance(self.layer, nn.Linear) else pointwise
            return build(self.layer, axes, axes.T @ self.kernel[:, :, 0])
        if not self.options.calibrated:
            outer, core, inner = tucker(self.kernel, *ranks)
            return convolutions(self.layer, outer, core, inner.T)
        core = torch.einsum("oik,oa->aik", self.weighted, axes)
        inner = leading(unfolded(core, 1))[1][:, : ranks[1]]
        core = torch.einsum("aik,ib->abk", core, inner)
        return convolutions(self.layer, axes, core, inner.T @ self.restore)


def chosen(views: dict[str, View], options: LowRank) -> dict[str, Ranks | str]:
    """Return each layer's ranks, or why it stays as it is."""
    if options.budget is not None:
        return budgeted(views, options.budget)
    found = {}
    for name, view in views.items():
        ranks = view.asked()
        found[name] = ranks if isinstance(ranks, str) else view.growth(ranks) or ranks
    return found


def budgeted(views: dict[str, View], budget: float) -> dict[str, Ranks | str]:
    """Spread the budget; a layer may also stay whole.

    Raises:
        CompressionError: the smallest ranks of all layers keep more.
    """
    ways: dict[str, list[Ranks | None]] = {}
    for name, view in views.items():
        steps = (view.within(step / BUDGET_STEPS) for step in range(1, BUDGET_STEPS + 1))
        ways[name] = [None, *dict.fromkeys(ranks for ranks in steps if ranks and view.growth(ranks) is None)]
    whole = sum(view.macs(None) for view in views.values())
    choices = [
        [Choice(cost=views[name].macs(ranks), loss=views[name].loss(ranks) if ranks else 0.0) for ranks in ranks_list]
        for name, ranks_list in ways.items()
    ]
    try:
        picked = spread(choices, budget * whole) if views else []
    except CompressionError as error:
        least = sum(min(choice.cost for choice in row) for row in choices) / whole
        raise CompressionError(
            f"low_rank: budget: expected a share of the MACs that the layers can get down to, {least:.3f} or more, "
            f"got {budget!r}"
        ) from error
    return {
        name: ways[name][index] or "the budget is met best with this layer whole"
        for name, index in zip(views, picked, strict=True)
    }


def put(model: nn.Module, name: str, layers: nn.Sequential, context: Context) -> str | None:
    """Put the thin layers in; if the model does not run with them, put the old one back and say why."""
    modules = dict(model.named_modules())
    old, undo = modules[name], fast_path_off(modules.get(name.rpartition(".")[0]))
    inputs = context.task.example_inputs(2)
    replace(model, name, layers)
    try:
        with torch.no_grad():
            call(model, inputs)
    except TaskError as error:
        replace(model, name, old)
        undo()
        return f"the model reads more of this layer than its outputs: {error.__cause__ or error}"
    return None


def fast_path_off(parent: nn.Module | None) -> Callable[[], None]:
    """Make torch's encoder layer call its linear layers, past which its fused form would go; return how to undo it."""
    if not isinstance(parent, nn.TransformerEncoderLayer):
        return lambda: None
    before, parent.activation_relu_or_gelu = parent.activation_relu_or_gelu, 0
    return lambda: setattr(parent, "activation_relu_or_gelu", before)
