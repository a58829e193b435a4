"""Models that a step names beside the task's own, by dotted path: how they are written, checked and built."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from torch import nn

from compression_gate.errors import TaskError
from compression_gate.methods.base import Context
from compression_gate.modules.checkpoints import adopt_weights, read_state
from compression_gate.modules.normalized import Normalized, unnormalized_shell
from compression_gate.records.params import TrainParams
from compression_gate.records.section import dotted
from compression_gate.registry import nearest
from compression_gate.tasks.task import Task, called, seed_everything

KEYS = ("model", "model_args", "weights", "train")


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model as a step names it.

    Args:
        key: where it stands among the step's options; errors start with it.
        model: dotted path of a callable(**model_args); ``task.model`` where it is None.
        weights: a file of its state dict, relative to the suite; ``from_model``: as the callable gives them.
        train: options of ``train`` that differ for it; the built-in loop trains it.
    """

    key: str
    model: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    train: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.key} ({self.model or 'task.model'})"


def problems_of(key: str, value: Any, allowed: Collection[str] = KEYS) -> list[str]:
    """Say what is wrong with a named model as it is written in the params; each starts with the key it is about."""
    if not isinstance(value, Mapping):
        return [f"{key}: expected a mapping of {', '.join(allowed)}, got {value!r}"]
    problems = [
        f"{key}.{name}: has no such key: expected one of {', '.join(allowed)}{nearest(name, allowed)}, got {item!r}"
        for name, item in value.items()
        if name not in allowed
    ]
    kinds = {"model": str, "model_args": Mapping, "weights": str, "train": Mapping}
    words = {str: "a text", Mapping: "a mapping"}
    problems += [
        f"{key}.{name}: expected {words[kind]}, got {value[name]!r}"
        for name, kind in kinds.items()
        if name in value and name in allowed and not isinstance(value[name], kind)
    ]
    if problems:
        return problems
    try:
        dotted(value.get("model", "task:model"))
    except ValueError as error:
        problems.append(f"{key}.model: {error}, got {value['model']!r}")
    return problems + train_problems(f"{key}.train", value.get("train", {}))


def train_problems(key: str, options: Mapping[str, Any]) -> list[str]:
    """Say which options are none of ``train``, or cannot be."""
    known = [name for name in TrainParams.model_fields if name != "normalize"]
    unknown = [
        f"{key}.{name}: expected one of {', '.join(known)}{nearest(name, known)}, got {value!r}"
        for name, value in options.items()
        if name not in known
    ]
    if unknown:
        return unknown
    try:
        TrainParams.model_validate_json(json.dumps(dict(options), default=str))
    except ValidationError as error:
        return [
            f"{key}.{'.'.join(map(str, item['loc']))}: {item['msg'].replace('Input should be', 'expected')}, "
            f"got {item['input']!r}"
            for item in error.errors()
        ]
    return []


def named_model(key: str, value: Mapping[str, Any]) -> NamedModel:
    """Read one that has no problems."""
    return NamedModel(
        key=key,
        model=value.get("model"),
        model_args=dict(value.get("model_args", {})),
        weights=value.get("weights"),
        train=dict(value["train"]) if "train" in value else None,
    )


def train_options(named: NamedModel, train: TrainParams) -> TrainParams:
    """Return ``train`` with what the model's own block changes."""
    return TrainParams.model_validate_json(json.dumps({**train.model_dump(mode="json"), **(named.train or {})}))


def built(named: NamedModel, context: Context, seed: int) -> nn.Module:
    """Build the model with its weights, in eval mode; it sees inputs normalised as the reference sees them.

    A file of ``compression_gate``'s own that holds normalisation is taken with it.

    Raises:
        ParamsError: the dotted path leads nowhere, or takes other arguments.
        TaskError: no module came back, or the weights do not fit.
    """
    model = module_of(named, context.task, seed)
    if named.weights not in (None, "from_model"):
        path = context.task.folder / str(named.weights)
        state = read_state(path, named.key)
        if {"mean", "deviation"} <= state.keys() and all(
            name.startswith("model.") for name in state.keys() - {"mean", "deviation"}
        ):
            model = unnormalized_shell(model, len(state["mean"]))
            adopt_weights(model, path, named.key)
            return model.eval()
        adopt_weights(model, path, named.key)
    return normalized_like(model, context.reference).eval()


def module_of(named: NamedModel, task: Task, seed: int) -> nn.Module:
    """Call the factory with its arguments; those of the task where it is the task's own and none are given."""
    seed_everything(seed)
    path = named.model or task.params.model
    arguments = named.model_args or (task.params.model_args if named.model is None else {})
    model = called(f"{named.key}.model", path, arguments)
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"{named.key}.model: {path}: expected a torch.nn.Module, got {type(model).__name__}: "
            "name a module class or a function that returns a module"
        )
    return model


def normalized_like(model: nn.Module, reference: nn.Module) -> nn.Module:
    """Wrap the model in the reference's normalisation, if that has one."""
    if not isinstance(reference, Normalized):
        return model
    return Normalized(model, reference.mean.clone(), reference.deviation.clone())
