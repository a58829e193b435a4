"""From the steps of a recipe to methods in order: every option checked, and orders that make no sense refused."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from compression_gate import registry
from compression_gate.errors import ParamsError, UnknownPluginError
from compression_gate.methods import METHODS
from compression_gate.records.params import FILE_NAME, Params, Step
from compression_gate.records.recipe import Recipe
from compression_gate.registry import nearest

if TYPE_CHECKING:
    from torch import nn

    from compression_gate.methods.base import Method
    from compression_gate.tasks.task import Task

STEPS_KEY = f"{FILE_NAME}: compress.steps"
STRICT = ConfigDict(strict=True, allow_inf_nan=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderRule:
    """What may not come later than what, anywhere in the chain, and why.

    Args:
        earlier, later: whether a method is one of those that the rule speaks of.
        reason: ends the sentence "step 2 cannot come after step 1: …".
        mend: what to do instead.
    """

    earlier: Callable[[Method], bool]
    later: Callable[[Method], bool]
    reason: str
    mend: str


def trains(method: Method) -> bool:
    """Whether a method updates weights one by one; each that can says so by its ``epochs``."""
    return getattr(method, "epochs", 0) > 0


STATIC, DYNAMIC, TRAINED = "static_quantization", "dynamic_quantization", "quantization_aware_training"
WEIGHTS = "weight_only_quantization"
# A quantization may follow another where that leaves layers it can treat; it leaves none to these.
QUANTIZED_AGAIN = {
    STATIC: (STATIC, TRAINED),
    DYNAMIC: (DYNAMIC,),
    TRAINED: (STATIC, DYNAMIC, TRAINED, WEIGHTS),
    WEIGHTS: (STATIC, DYNAMIC, TRAINED, WEIGHTS),
}


def nothing_left(first: str, later: tuple[str, ...]) -> OrderRule:
    """Say that a quantization leaves nothing to some others, unless it is told what to ignore."""
    return OrderRule(
        earlier=lambda method: name_of(method) == first and not getattr(method, "ignore", ()),
        later=lambda method: name_of(method) in later,
        reason="all the weights that it could treat are integers then, which nothing can quantize again",
        mend="name in the first step's `ignore` what the other is for, or leave one of them out",
    )


ORDER_RULES = (
    OrderRule(
        earlier=lambda method: method.effect == "integer_weights",
        later=lambda method: method.effect != "integer_weights",
        reason="the weights are integers then, which nothing can prune, train or share",
        mend="move the quantization to the end",
    ),
    *(nothing_left(first, later) for first, later in QUANTIZED_AGAIN.items()),
    OrderRule(
        earlier=lambda method: method.effect == "fewer_values",
        later=lambda method: trains(method) and method.effect != "fewer_values",
        reason="training moves each weight by itself, which would undo the sharing",
        mend="train before the weights are shared, or give the sharing step epochs of its own",
    ),
    OrderRule(
        earlier=lambda method: name_of(method) == "weight_sharing",
        later=lambda method: name_of(method) == "rate_aware_training",
        reason="it trains each weight by itself towards steps of its own, which would undo the sharing",
        mend="leave the sharing out: its integers are few values already",
    ),
    OrderRule(
        earlier=lambda method: name_of(method) == "rate_aware_training",
        later=lambda method: name_of(method) in ("weight_sharing", WEIGHTS),
        reason="the weights are few integers times a step then: other steps or values would add error and bytes",
        mend="leave it out",
    ),
    OrderRule(
        earlier=lambda method: method.effect == "fewer_values",
        later=lambda method: name_of(method) in ("low_rank", "batchnorm_folding"),
        reason="it multiplies weights with each other, which would undo the sharing",
        mend="share the weights after it",
    ),
    OrderRule(
        earlier=lambda method: method.effect == "fewer_nonzeros",
        later=lambda method: name_of(method) == "low_rank",
        reason="the factors of a matrix with zeros have none, which would undo the pruning",
        mend="factorise first, then prune",
    ),
    OrderRule(
        earlier=lambda method: getattr(method, "pattern", None) is not None,
        later=lambda method: name_of(method) == "structured_pruning",
        reason="channels that leave move every weight behind them to another group, which would undo the pattern",
        mend="remove channels first",
    ),
    OrderRule(
        earlier=lambda method: (
            name_of(method) in ("batchnorm_folding", "rate_aware_training") and not getattr(method, "ignore", ())
        ),
        later=lambda method: getattr(method, "importance", None) == "norm_scale",
        reason="the norms by whose scale it goes are folded into the layers before them, and gone",
        mend="remove channels first, or take another importance",
    ),
    OrderRule(
        earlier=lambda method: True,
        later=lambda method: getattr(method, "replaces", False),
        reason="the student it names takes the place of the model, and what was done to that would be lost",
        mend="put the step with the student first",
    ),
)


def steps_of(params: Params, suite: Path = Path()) -> list[Method]:
    """Return the methods of ``compress.steps``, or of the file that ``compress.recipe`` names, ready to be applied.

    Raises:
        ParamsError: every unknown method or option, wrong type and impossible value at once; or an order that makes
            no sense, with both steps and the reason.
    """
    recipe = params.compress.recipe
    steps = params.compress.steps if recipe is None else Recipe.read(suite / recipe).steps
    return built(steps, steps_key(params))


def steps_key(params: Params) -> str:
    """Where the steps are written, as errors say it: in the params, or in the recipe that these name."""
    return STEPS_KEY if params.compress.recipe is None else f"{params.compress.recipe}: steps"


def built(steps: Iterable[Step], where: str) -> list[Method]:
    """Build each step's options record, then check the order."""
    methods: list[Method] = []
    problems: list[str] = []
    for number, step in enumerate(steps):
        try:
            methods.append(method_of(step))
        except ParamsError as error:
            problems += [f"{where}.{number}.{problem}" for problem in error.problems]
    if problems:
        raise ParamsError(problems)
    if problems := order_problems(methods, where):
        raise ParamsError(problems)
    return methods


def method_of(step: Step) -> Method:
    """Build one step's options record.

    Raises:
        ParamsError: each problem starts with the key it is about.
    """
    try:
        kind = registry.load("methods", step.method, METHODS)
    except UnknownPluginError as error:
        known = f"expected one of {', '.join(METHODS)}, got {step.method!r}{nearest(step.method, METHODS)}"
        raise ParamsError(f"method: {known}") from error
    hints = typing.get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in step.options.items():
        if name not in fields:
            problems.append(
                f"{name}: {step.method} has no such option: expected one of {', '.join(fields)}{nearest(name, fields)}"
            )
            continue
        try:
            values[name] = typed(fields[name], value)
        except ValueError as error:
            problems.append(f"{name}: {error}, got {value!r}")
    try:
        method: Method = kind(**values)
    except ParamsError as error:
        problems += [problem for problem in error.problems if problem.partition(":")[0] not in named_in(problems)]
    except TypeError as error:  # an option without a default is missing
        problems.append(f"{step.method}: {error}")
    if problems:
        raise ParamsError(problems)
    return method


def named_in(problems: list[str]) -> set[str]:
    """Return the options that problems are about already."""
    return {problem.partition(":")[0] for problem in problems}


def typed(annotation: Any, value: Any) -> Any:
    """Return ``value`` as the option's type; no text is taken for a number, and no number for a flag.

    Raises:
        ValueError: it is of another type; the text says what was expected.
    """
    try:
        return TypeAdapter(annotation, config=STRICT).validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        wanted = [
            re.sub(r"Input should be (an? valid |an? )?", "", item["msg"]).replace("array", "list")
            for item in error.errors()
        ]
        if type(None) in typing.get_args(annotation):
            wanted.append("null")
        raise ValueError(f"expected {' or '.join(dict.fromkeys(wanted))}") from error


def order_problems(methods: Sequence[Method], where: str) -> list[str]:
    """Return what is wrong with the order, the first reason for each pair of steps."""
    problems = []
    for later, second in enumerate(methods):
        for earlier, first in enumerate(methods[:later]):
            rule = next((rule for rule in ORDER_RULES if forbids(rule, first, second)), None)
            if rule is not None:
                problems.append(
                    f"{where}.{later}: {name_of(second)} cannot come after {name_of(first)} (step {earlier}): "
                    f"{rule.reason}: {rule.mend}"
                )
    return problems


def forbids(rule: OrderRule, first: Method, second: Method) -> bool:
    """Whether a rule speaks against ``second`` after ``first``, or after what is left of the steps inside it."""
    left, coming = (first, *getattr(first, "remaining", ())), (second, *getattr(second, "inner", ()))
    return any(map(rule.earlier, left)) and any(map(rule.later, coming))


def factory_of(methods: Iterable[Method], factory: nn.Module, task: Task) -> nn.Module:
    """Return the model that ``structure.json`` is written against after these methods, its weights being of no account.

    It is the task's own, unless a method puts another architecture in its place and says so by ``factory``.
    """
    for method in methods:
        if hasattr(method, "factory"):
            factory = method.factory(factory, task)
    return factory


def name_of(method: Method) -> str:
    """Return the method's name in the table, or its dotted path where it comes from elsewhere."""
    kind = type(method)
    target = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, row in METHODS.items() if row.target == target), target)


def recipe_of(methods: Iterable[Method]) -> Recipe:
    """Return the recipe with every option filled in, so that its digest changes with a default as well."""
    return Recipe(steps=tuple(Step(method=name_of(method), **dataclasses.asdict(method)) for method in methods))  # type: ignore[call-overload]
