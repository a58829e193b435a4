"""Weights as safetensors, the same bytes every time: what is tied is stored once, nothing is stored about it."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from compression_gate.records.base import replacing


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state dict, a tensor of several names under the first of them; :func:`load_weights` reads it.

    ``save_model`` of safetensors is not used: it notes the names it left out in an order that differs from process to
    process, and with it the file's digest.
    """
    tensors = model.state_dict(keep_vars=True)
    firsts = dict.fromkeys(first_names(model).values())
    state = {name: tensors[name].detach().cpu().contiguous().clone() for name in firsts}
    with replacing(path) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt"})


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what :func:`save_weights` wrote into a model whose tensors have the same names in common.

    ``load_model`` of safetensors is not used: it refuses a batch norm that has several names.

    Raises:
        RuntimeError: names or shapes are not the model's.
    """
    state = load_file(path, device="cpu")
    shared = {name: state[first] for name, first in first_names(model).items() if first in state}
    model.load_state_dict({**state, **shared})


def first_names(model: nn.Module) -> dict[str, str]:
    """Return the first name of each saved tensor by any of its names."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in model.state_dict(keep_vars=True).items()}
