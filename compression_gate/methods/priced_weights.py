"""Weights that are whole multiples of a learned step while they are trained, with a price on every level.

The layers stay torch's: what is computed with a weight, wherever in the model, is computed with the rounded one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compression_gate.methods.bit_prices import prices_of
from compression_gate.methods.options import inside
from compression_gate.modules.learned_steps import LearnedStep, refreshed
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.quantized_weights import SMALLEST_RANGE
from compression_gate.modules.surgery import owners, weights

BIAS_LEVELS = 15  # of biases, and of matrices that no layer of torch's holds (embeddings of positions)
VECTOR_LEVELS = 63  # of the weights of norms: few numbers, whose step is finer
PLAIN = 0.5  # where rounding cuts: smaller magnitudes are zero [steps]
SMALLEST_VECTOR = 0.1  # what their levels span at least: a bias may grow from zero
MANTISSA_BITS = 4  # of a step as it is stored, behind the leading one
SHARES = tuple(share / 50 for share in range(2, 51))  # of the largest weight, tried as the highest level


class PricedWeight(nn.Module):
    """A parametrization: an integer of -levels to levels times one learned step for the whole tensor.

    Weights that are zero at the start, which earlier steps pruned, stay zero; biases need not. Once frozen, zeros
    stay zero, what is none keeps a level of at least one, and the step is what is stored of it.
    Once fixed, integers stay those that are held.
    """

    live: Tensor
    first: Tensor
    further: Tensor
    frozen: Tensor
    fixed: Tensor
    held: Tensor

    def __init__(self, weight: Tensor, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.step = LearnedStep(first_step(weight, levels), rounded_each=weight.numel(), levels=levels)
        pruned = weight.detach() == 0 if weight.dim() > 1 else torch.zeros_like(weight, dtype=torch.bool)
        self.register_buffer("live", (~pruned).to(weight.dtype))  # 1 or 0: a product is faster than a choice
        self.register_buffer("first", torch.zeros_like(weight.detach()))
        self.register_buffer("further", torch.zeros(()))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self.register_buffer("fixed", torch.zeros((), dtype=torch.bool))
        self.register_buffer("held", torch.zeros_like(weight.detach(), dtype=torch.int8))
        self.bits = 0.0
        self.cut = PLAIN  # until frozen: magnitudes from here on are no zeros
        self.shift = 0.0  # of magnitudes before they are rounded, once frozen

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights that the integers stand for; gradients pass the rounding, and stop where it cuts.

        Source: Y. Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013
        (straight-through estimator); Esser et al. 2020, eq. 1 to 5.
        """
        step = self.step()
        if bool(self.frozen):
            step = step + (coarse(step.detach()) - step.detach())
        rounded: Tensor = Rounded.apply(weight, step, self)
        return rounded

    def integers_of(self, scaled: Tensor) -> Tensor:
        """Round weights that are measured in steps."""
        if bool(self.fixed):
            return self.held.to(scaled.dtype)
        if bool(self.frozen):
            nearest = scaled.sign() * (scaled.abs() + self.shift).round().clamp(1, self.levels)
        elif self.cut != PLAIN:
            sizes = scaled.abs()
            nearest = scaled.sign() * sizes.round().clamp(min=1) * (sizes >= self.cut)
        else:
            nearest = scaled.round()
        return nearest * self.live + 0.0  # no -0

    @torch.no_grad()
    def scaled(self, weight: Tensor) -> Tensor:
        """Return the weights in steps, cut at the highest level."""
        step = coarse(self.step()) if bool(self.frozen) else self.step()
        return (weight * self.live / step).clamp(-self.levels, self.levels)

    @torch.no_grad()
    def final(self, weight: Tensor) -> Tensor:
        """Return integers times the step as it is stored: exact in float32, since it has few binary digits."""
        return self.integers_of(self.scaled(weight)) * coarse(self.step())

    @torch.no_grad()
    def fix(self, weight: Tensor) -> None:
        """Keep the integers as they are now; the step is still learned."""
        self.held.copy_(self.integers_of(self.scaled(weight)))
        self.fixed.fill_(True)

    def price(self, weight: Tensor) -> Tensor:
        """Return a number whose slope is that of the bits over the weight, piece by piece between two integers.

        The step has no part in it: it would grow for the sake of zeros, which save nothing by lying nearer to zero.
        """
        price: Tensor = Price.apply(weight, self)
        return price

    @torch.no_grad()
    def reprice(self, weight: Tensor) -> None:
        """Count anew what levels cost."""
        prices = prices_of(self.integers_of(self.scaled(weight)))
        self.bits = prices.total
        self.first.copy_(prices.first if not bool(self.frozen) else torch.zeros_like(prices.first))
        self.further.copy_(prices.further)


class Rounded(torch.autograd.Function):
    """Integers times a step; written out as products, since it is done with every weight at every step of training."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, rounding: PricedWeight) -> Tensor:
        """Round; keep what both gradients need."""
        ratio = weight / step
        passing = (ratio.abs() <= rounding.levels).to(weight.dtype).mul_(rounding.live)
        integers = rounding.integers_of(ratio.clamp(-rounding.levels, rounding.levels))
        ctx.save_for_backward(passing, integers - ratio * passing)
        # Strides of axes of one, which say in which order a convolution lays out its results, would not be kept.
        out = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device=weight.device)
        return torch.mul(integers, step, out=out)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, Tensor, None]:
        """Pass the gradient on where the rounding did not cut."""
        passing, of_step = ctx.saved_tensors
        return above[0] * passing, (above[0] * of_step).sum(), None


class Price(torch.autograd.Function):
    """What weights cost, piece by piece between two integers."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounding: PricedWeight) -> Tensor:
        """Sum the prices; keep their slopes."""
        step = rounding.step()
        size = weight.abs() / step
        beyond, cut = size.clamp(max=1).floor_(), (size / rounding.levels).clamp_(max=1).floor_()  # 1 or 0
        slope = torch.lerp(rounding.first, rounding.further.expand_as(size), beyond) * rounding.live * (1 - cut)
        ctx.save_for_backward(slope * weight.sign() / step)
        return (slope * size).sum()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        """Multiply the slopes."""
        return ctx.saved_tensors[0] * above[0], None


@dataclass(frozen=True, kw_only=True)
class Priced:
    """One parameter that is trained as integers: its name, where it is, and its rounding."""

    name: str
    layer: Any
    attribute: str
    rounding: PricedWeight

    @property
    def weight(self) -> nn.Parameter:
        """What training moves behind the integers."""
        latent: nn.Parameter = self.layer.parametrizations[self.attribute].original
        return latent


def first_step(weight: Tensor, levels: int) -> Tensor:
    """Return the step of the least squared rounding error, of those tried."""
    values = weight.detach().flatten().float()
    largest = values.abs().max().clamp_min(SMALLEST_RANGE * levels if weight.dim() > 1 else SMALLEST_VECTOR)
    if not bool(values.any()):
        return largest / levels
    steps = torch.stack([largest * share / levels for share in SHARES])
    errors = [(((values / step).round().clamp(-levels, levels) * step - values).square()).sum() for step in steps]
    return steps[int(torch.stack(errors).argmin())].reshape(())


def coarse(step: Tensor) -> Tensor:
    """Round a step to MANTISSA_BITS binary digits behind the leading one."""
    mantissa, exponent = torch.frexp(step)
    scale = 2.0 ** (MANTISSA_BITS + 1)
    return torch.ldexp((mantissa * scale).round() / scale, exponent)


def found(model: nn.Module, ignore: tuple[str, ...]) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """Return the parameters that can be integers, each once; and reasons for the others, by name."""
    treated: dict[str, nn.Parameter] = {}
    reasons: dict[str, str] = {
        name: "holds integers already" for name, module in model.named_modules() if isinstance(module, QuantizedLayer)
    }
    layers = dict(model.named_modules(remove_duplicate=False))
    for name, parameter in model.named_parameters():
        layer = layers[name.rpartition(".")[0]]
        if any(inside(one, ignore) for one in owners(model, parameter)):
            reasons[name] = "it is in `ignore`"
        elif isinstance(layer, parametrize.ParametrizationList) or parametrize.is_parametrized(layer):
            # torch keeps parametrizations in a class that copies of the layer share: one more would be in all of them.
            reasons[name] = "its layer computes weights from others: parametrizations stay as they are"
        elif getattr(layer, "max_norm", None) is not None:
            reasons[name] = "max_norm changes its rows whenever they are read"
        elif not parameter.requires_grad:
            reasons[name] = "frozen"
        elif parameter.dtype != torch.float32:
            reasons[name] = f"of {parameter.dtype}, not float32"
        elif parameter.dim() == 0:
            reasons[name] = "a single number"
        else:
            treated[name] = parameter
    return treated, reasons


def rounded_while_trained(model: nn.Module, treated: dict[str, nn.Parameter], levels: int) -> list[Priced]:
    """Have layers compute with integers times a step from now on; a weight that layers share has one rounding."""
    holders = dict(model.named_modules(remove_duplicate=False))
    matrices = weights(model)
    names = {id(parameter): name for name, parameter in treated.items()}
    made: dict[str, Priced] = {}
    seen: set[tuple[int, str]] = set()
    for full, parameter in list(model.named_parameters(remove_duplicate=False)):
        owner, _, attribute = full.rpartition(".")
        layer = holders[owner]
        if id(parameter) not in names or (id(layer), attribute) in seen:
            continue
        seen.add((id(layer), attribute))
        name = names[id(parameter)]
        beside = BIAS_LEVELS if parameter.dim() > 1 or "bias" in attribute else VECTOR_LEVELS
        own = levels if name in matrices else beside
        rounding = made[name].rounding if name in made else PricedWeight(parameter, own)
        parametrize.register_parametrization(layer, attribute, rounding, unsafe=True)
        if isinstance(layer, nn.RNNBase) and not hasattr(layer, "refreshes"):
            layer.refreshes = layer.register_forward_pre_hook(refreshed)
        made.setdefault(name, Priced(name=name, layer=layer, attribute=attribute, rounding=rounding))
    return list(made.values())


@torch.no_grad()
def filled(shell: nn.Module, student: nn.Module, priced: list[Priced]) -> nn.Module:
    """Return a copy of the plain model with what the student has learned, integers times steps."""
    model = copy.deepcopy(shell)
    state = student.state_dict()
    finished = {one.name: one.rounding.final(one.weight) for one in priced}
    for name, value in model.state_dict(keep_vars=True).items():
        if name in finished:
            value.copy_(finished[name])
        elif name in state:
            value.copy_(state[name])
    return model.eval()


def matrices_of(priced: list[Priced]) -> Iterator[Priced]:
    """Those with rows and columns: what a byte target takes weights from."""
    return (one for one in priced if one.weight.dim() > 1)
