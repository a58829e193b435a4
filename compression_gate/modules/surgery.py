"""Finding layers and weights in any module, and putting other layers in their place."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from compression_gate.errors import CompressionError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear, nn.Bilinear, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)


def leaves(model: nn.Module, types: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[tuple[str, nn.Module]]:
    """Return the modules of ``types`` that have no children, each once, in the order of their names.

    The layers inside ``nn.MultiheadAttention`` are left out: it reads their weights without ever calling them, so
    that whatever took their place would not be called either.
    """
    inside = {
        id(child)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for child in module.modules()
        if child is not module
    }
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, types) and id(module) not in inside and not any(module.children())
    ]


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` wherever the module called ``name`` is, under all of its names.

    Raises:
        CompressionError: no module has that name.
    """
    old = dict(model.named_modules(remove_duplicate=False)).get(name)
    if old is None or not name:
        raise CompressionError(f"{name or 'the model itself'}: expected the name of a module inside the model")
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[child_name] = module


def ties(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the groups of parameter names that stand for one and the same parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


def weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight matrices and kernels by name: what pruning and sharing treat. No biases, no norms.

    A weight that several names share is there once.
    """
    owners = dict(model.named_modules(remove_duplicate=False))
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2
        and parameter.is_floating_point()
        and isinstance(owners[name.rpartition(".")[0]], WEIGHTED)
        and "bias" not in name.rpartition(".")[2]
    }


def owners(model: nn.Module, weight: nn.Parameter) -> set[str]:
    """Return the names of the modules that hold a parameter, under all of its names."""
    return {
        name.rpartition(".")[0]
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is weight
    }


def unknown_weights(model: nn.Module) -> dict[str, str]:
    """Return the other parameters of two and more axes, each with the reason why nobody touches it, and what to do."""
    known = weights(model)
    owners = dict(model.named_modules(remove_duplicate=False))
    return {
        name: f"belongs to {type(owners[name.rpartition('.')[0]]).__name__}: expected a layer type of torch.nn: "
        "write it with such layers, or leave it as it is"
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2 and name not in known and "bias" not in name.rpartition(".")[2]
    }


def state_digest(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of the state dict."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
