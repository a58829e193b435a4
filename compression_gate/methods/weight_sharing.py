"""Weight sharing: each layer keeps a few distinct weights, found by k-means and fine-tuned together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from compression_gate.errors import CompressionError
from compression_gate.methods.base import Context, Effect
from compression_gate.methods.options import inside, not_exactly_one, not_one_of, outside, refuse
from compression_gate.modules.masks import keeper, zeros_of
from compression_gate.modules.surgery import owners, state_digest, unknown_weights, weights
from compression_gate.tasks.training import AfterStep, Fitting, fit, in_turn

Init = Literal["linear", "density", "random"]
Scope = Literal["local", "global"]
MOST_ROUNDS = 300  # of Lloyd's algorithm: sorted values settle in tens; the bound only stops what would oscillate
MOST_CLUSTERS = 2**16


@dataclass(frozen=True, kw_only=True)
class WeightSharing:
    """Replace each weight by the nearest of a few shared values; exact zeros stay and count as one of them.

    The weights stay ordinary tensors; the coded file stores an index each.

    Args:
        bits: of an index: 2^bits shared values, 1 to 16.
        clusters: instead: how many shared values, 2 or more.
        scope: ``local``: that many for each layer; ``global``: for all layers together, one table in the file. Layers
            with weights much smaller than the largest layer's are left with few values then.
        init: where k-means starts: ``linear`` between the smallest and the largest weight, which keeps the large
            ones; ``density``: at quantiles; ``random``: at weights drawn by ``train.seed``.
        epochs: of fine-tuning the shared values: the gradients of all weights that share one are summed.
        learning_rate: of the fine-tuning, if there is any; the default is a third of the training's.
        ignore: names of modules whose weights are not shared, with everything inside them; fine-tuning moves them as it
            moves biases, and keeps their zeros.

    Source: S. Han, H. Mao, W. J. Dally, Deep Compression, ICLR 2016, §3.
    """

    effect: ClassVar[Effect] = "fewer_values"
    bits: int | None = None
    clusters: int | None = None
    scope: Scope = "local"
    init: Init = "linear"
    epochs: int = 0
    learning_rate: float | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse(
            not_exactly_one(bits=self.bits, clusters=self.clusters),
            outside("bits", self.bits, 1, 16),
            outside("clusters", self.clusters, 2, MOST_CLUSTERS),
            not_one_of("scope", self.scope, get_args(Scope)),
            not_one_of("init", self.init, get_args(Init)),
            outside("epochs", self.epochs, 0),
            outside("learning_rate", self.learning_rate, 0, open_="["),
        )

    @property
    def count(self) -> int:
        """How many values a layer, or all of them, may hold."""
        return self.clusters if self.clusters is not None else 2 ** (self.bits or 0)

    def apply(self, model: nn.Module, context: Context) -> nn.Module:
        """Return a copy of ``model`` with few distinct weights."""
        refuse(*(not_one_of("ignore", name, dict(model.named_modules())) for name in self.ignore))
        shared = copy.deepcopy(model).eval()
        found, reasons = weights(shared), unknown_weights(shared)
        for name, weight in found.items():
            if any(inside(one, self.ignore) for one in owners(shared, weight)):
                reasons[name] = "it is in `ignore`"
        treated = {name: weight for name, weight in found.items() if name not in reasons}
        if not treated:
            why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise CompressionError(
                f"weight_sharing: no layer can be treated: {why or 'none has weights'}: leave the step out"
            )
        context.notes.uncovered.update(reasons)
        random = torch.Generator().manual_seed(context.train.seed)
        tables = [[name] for name in treated] if self.scope == "local" else [list(treated)]
        members: dict[str, Tensor] = {}
        for names in tables:
            members |= share({name: treated[name] for name in names}, self.count, self.init, random)
        context.notes.covered.extend(treated)
        if self.epochs:
            context.notes.remark_frozen(shared)
            fine_tune(shared, members, self, context)
        return shared


@torch.no_grad()
def share(together: dict[str, nn.Parameter], count: int, init: Init, random: torch.Generator) -> dict[str, Tensor]:
    """Give weights at most ``count`` distinct values together, in place, and return which one each element has.

    Returns:
        Indices in each weight's shape; -1 for exact zeros, which stay.
    """
    values = torch.cat([weight.detach().flatten() for weight in together.values()]).double()
    live = values != 0
    clusters = count if bool(live.all()) else count - 1
    index = torch.full(values.shape, -1, dtype=torch.long)
    if live.any():
        ordered, back = values[live].sort()
        centres, inside = clustered(ordered, clusters, init, random)
        index[live] = inside[back.argsort()]
        values[live] = centres[inside][back.argsort()]
    sizes = [weight.numel() for weight in together.values()]
    members = {}
    for (name, weight), new, own in zip(together.items(), values.split(sizes), index.split(sizes), strict=True):
        weight.copy_(new.view(weight.shape))
        members[name] = own.view(weight.shape)
    return members


def clustered(ordered: Tensor, count: int, init: Init, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Run k-means on sorted numbers: in one dimension a cluster is an interval, so that sums over it are differences.

    Args:
        ordered: ``(n,)``, ascending.

    Returns:
        Centres ``(k,)``, k at most ``count`` (empty clusters vanish), and the centre of each number ``(n,)``.

    Source: S. P. Lloyd, Least Squares Quantization in PCM, 1982.
    """
    centres = first_centres(ordered, count, init, random)
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    bounds = torch.empty(0, dtype=torch.long)
    for _ in range(MOST_ROUNDS):
        middles = (centres[1:] + centres[:-1]) / 2
        inner = torch.searchsorted(ordered, middles)
        new_bounds = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ordered))])
        sizes = new_bounds.diff()
        means = sums[new_bounds].diff() / sizes.clamp_min(1)
        centres = means[sizes > 0]
        if torch.equal(new_bounds, bounds):
            break
        bounds = new_bounds
    sizes = sizes[sizes > 0]
    return centres, torch.repeat_interleave(torch.arange(len(sizes)), sizes)


def first_centres(ordered: Tensor, count: int, init: Init, random: torch.Generator) -> Tensor:
    """Return up to ``count`` distinct ascending numbers to start from."""
    distinct = ordered.unique()
    if len(distinct) <= count:
        return distinct
    if init == "linear":
        return torch.linspace(float(ordered[0]), float(ordered[-1]), count, dtype=ordered.dtype)
    if init == "density":
        places = (torch.arange(count, dtype=torch.double) + 0.5) / count * len(ordered)
        return ordered[places.long()].unique()
    return distinct[torch.randperm(len(distinct), generator=random)[:count]].sort().values


def fine_tune(model: nn.Module, members: dict[str, Tensor], options: WeightSharing, context: Context) -> None:
    """Train the shared values in place: the weights of a layer that share one get one gradient, and stay equal.

    With one table for all layers, each layer moves its values by itself, then all take the mean over their weights.
    """
    key = f"{options} {state_digest(model)}"
    hooks = [
        weight.register_hook(summed(members[name]))
        for name, weight in weights(model).items()
        if weight.requires_grad and name in members
    ]
    rate = options.learning_rate or context.train.learning_rate / 3
    together = rejoined if options.scope == "local" else averaged
    fitting = Fitting(
        options=context.train.model_copy(update={"epochs": options.epochs, "learning_rate": rate}),
        after_step=in_turn(together(members), keeper(zeros_of(model))),
        checkpoint=context.checkpoint,
        label="weight_sharing",
        key=key,
    )
    try:
        context.notes.add_curve("weight_sharing", fit(model, context.task, fitting))
    finally:
        for hook in hooks:
            hook.remove()


def rejoined(members: dict[str, Tensor]) -> AfterStep:
    """Return a function that makes the members of each value exactly equal again.

    Vectorised and scalar parts of one kernel may round differently: the first member speaks for all.
    """
    firsts = {name: first_members(index) for name, index in members.items()}

    @torch.no_grad()
    def after_step(current: nn.Module) -> None:
        treated = weights(current)
        for name in members:
            weight = treated[name]
            index = members[name].to(weight.device)
            centres = torch.cat([weight.reshape(-1)[firsts[name].to(weight.device)], weight.new_zeros(1)])
            weight.copy_(centres[index])  # -1, the last, is the zero

    return after_step


def averaged(members: dict[str, Tensor]) -> AfterStep:
    """Return a function that gives each value the mean over its members in all layers; zeros stay zero."""
    places = torch.cat([index.flatten() for index in members.values()])
    live = places >= 0
    count = int(places.max()) + 1
    sizes = torch.bincount(places[live], minlength=count).clamp_min(1)

    @torch.no_grad()
    def after_step(current: nn.Module) -> None:
        treated = weights(current)
        together = torch.cat([treated[name].detach().flatten().cpu() for name in members]).double()
        sums = torch.zeros(count, dtype=torch.double).index_add_(0, places[live], together[live])
        centres = torch.cat([sums / sizes, sums.new_zeros(1)])
        for name, index in members.items():
            treated[name].copy_(centres[index])

    return after_step


def first_members(index: Tensor) -> Tensor:
    """Return the position of one weight of each shared value, ``(k,)``."""
    flat = index.flatten()
    count = int(flat.max()) + 1
    places = torch.zeros(count, dtype=torch.long)
    live = (flat >= 0).nonzero().flatten().flip(0)  # the last write wins: the first member
    places[flat[live]] = live
    return places


def summed(index: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a hook that gives each weight the sum of the gradients of all that share its value; zeros get none.

    Source: S. Han et al., Deep Compression, eq. 3.
    """

    def hook(gradient: Tensor) -> Tensor:
        places = (index.to(gradient.device) + 1).flatten()
        total = gradient.new_zeros(int(places.max()) + 1).index_add_(0, places, gradient.reshape(-1))
        total[0] = 0
        return total[places].view(gradient.shape)

    return hook
