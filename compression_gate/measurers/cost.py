"""Exact costs of a model: weights held, weights that are not zero, multiply-accumulates per example."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compression_gate.errors import TaskError
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.quantized_weights import FEWEST_BITS, held_bits
from compression_gate.tasks.calling import Inputs, call, named


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Numbers of weights, of weights that are not zero, and of multiply-accumulates for one example."""

    parameters: int
    nonzeros: int
    macs: int

    @property
    def sparsity(self) -> float:
        """Share of the weights that are zero, 0–1."""
        return 1 - self.nonzeros / self.parameters if self.parameters else 0.0


def weights_of(model: nn.Module) -> list[Tensor]:
    """Every weight once: parameters, and what integer layers hold in their place."""
    weights: list[Tensor] = list(model.parameters())
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            weights += layer.numbers()
    return weights


def stored_bytes(model: nn.Module, narrowest: int = FEWEST_BITS) -> int:
    """Bytes of weights and buffers as files hold them: an integer takes 8, 4 or 2 bits, a zero its full price.

    Args:
        narrowest: bits of the narrowest type that the file has.
    """
    together = (*model.parameters(), *model.buffers())
    whole = sum(value.numel() * value.element_size() for value in together)
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            integers = sum(getattr(layer, f"{name}_integers").numel() for name in layer.weight_names)
            whole -= integers * (8 - held_bits(layer.bits, narrowest)) // 8
    return whole


def costs_of(model: nn.Module, inputs: Inputs) -> Costs:
    """Count weights and multiply-accumulates; ``inputs`` may hold any number of examples ``(N, …)``."""
    weights = weights_of(model)
    return Costs(
        parameters=sum(weight.numel() for weight in weights),
        nonzeros=sum(int(torch.count_nonzero(weight.detach())) for weight in weights),
        macs=macs_of(model, inputs),
    )


@contextmanager
def without_fused_layers() -> Iterator[None]:
    """Have recurrent layers, attention and transformer layers run as the matrix products that they consist of."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        # torch warns about GPUs nobody has when mkldnn's setting is put back.
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def macs_of(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-accumulates per example, of matrix products, convolutions and attention.

    Counted by torch's ``FlopCounterMode``, which counts two FLOPs for each, and knows none of the fused layers.
    """
    examples = next(iter(named(inputs).values())).shape[0]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad(), without_fused_layers(), FlopCounterMode(display=False) as counter:
            call(model, inputs)
    except TaskError:
        raise
    except Exception as error:  # a user's model may raise anything
        shapes = {name: tuple(value.shape) for name, value in named(inputs).items()}
        raise TaskError(
            f"task.model: called with {shapes}: raised {type(error).__name__}: {error}: "
            "forward() must take what task.data yields"
        ) from error
    finally:
        for module in training:
            module.training = True
    return round(counter.get_total_flops() / 2 / examples)
