"""``params.yaml``: what a user asks for, read with every problem named by file, line and key path."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from compression_gate.errors import ParamsError
from compression_gate.records.base import digest_of, write_if_changed
from compression_gate.records.document import Document
from compression_gate.records.metric_table import DEFAULT_METRICS
from compression_gate.records.policies import policy_problems
from compression_gate.records.rules import LIMIT_NAMES, Limit, Rule, contradictions, quality_levels, rule_problems
from compression_gate.records.search_params import SearchParams
from compression_gate.records.section import DottedPath, Section
from compression_gate.registry import nearest, unknown

FILE_NAME = "params.yaml"


class TaskParams(Section):
    """How the user's model and data enter."""

    model: DottedPath
    data: DottedPath
    model_args: dict[str, Any] = Field(default_factory=dict)
    data_args: dict[str, Any] = Field(default_factory=dict)
    collate: DottedPath | None = None
    kind: Literal["classification", "regression", "custom"] = "classification"
    loss: DottedPath | None = None
    scorer: DottedPath | None = None
    trainer: DottedPath | None = None
    weights: str | None = None
    dynamic: dict[str, dict[int, str]] = Field(default_factory=dict)
    files: tuple[str, ...] = ()

    @model_validator(mode="after")
    def custom_needs_a_scorer(self) -> TaskParams:
        """Without a scorer nothing of a custom task can be measured."""
        if self.kind == "custom" and self.scorer is None:
            raise ValueError("kind custom needs task.scorer: a callable(outputs, targets) -> {name: scores (N,)}")
        return self


class PrepareParams(Section):
    """Findings in the data that are accepted."""

    allow: tuple[Literal["duplicates", "leaks", "empty_classes"], ...] = ()


class TrainParams(Section):
    """The built-in training loop."""

    epochs: int = Field(4, ge=0)
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(0.003, gt=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    normalize: bool = False
    augment: tuple[Literal["shift", "rotate", "flip", "noise", "erase"], ...] = ()
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Step(BaseModel):
    """One step of a recipe: a method by name, and its options, which the method checks."""

    model_config = ConfigDict(frozen=True, extra="allow")
    method: str

    @property
    def options(self) -> dict[str, Any]:
        """All keys but ``method``."""
        return dict(self.__pydantic_extra__ or {})


class CompressTarget(Section):
    """What the candidate is to reach, in place of steps, which the stage then chooses itself.

    Args:
        compression_ratio: bytes of the reference's ``model.safetensors`` over those of the file that ships.
        size_bytes: instead: bytes of the file that ships.
        max_accuracy_drop: of the exported files, on the validation split, 0-1.
        max_epochs: trained by all chains that are tried, together.
    """

    compression_ratio: float | None = Field(None, gt=1)
    size_bytes: int | None = Field(None, ge=1)
    max_accuracy_drop: float = Field(ge=0, lt=1)
    max_epochs: int = Field(8, ge=0)

    @model_validator(mode="after")
    def one_measure_of_size(self) -> CompressTarget:
        """Both would contradict each other, or say the same twice."""
        if (self.compression_ratio is None) == (self.size_bytes is None):
            raise ValueError("expected exactly one of compression_ratio and size_bytes")
        return self

    def most_bytes(self, state_bytes: int) -> float:
        """What the file that ships may take.

        Args:
            state_bytes: of the reference's ``model.safetensors``.
        """
        return float(self.size_bytes) if self.size_bytes is not None else state_bytes / (self.compression_ratio or 1.0)


class CompressParams(Section):
    """What is done to the model, and what it ships as.

    Args:
        profile: of the coded file: large tensors in fewest bytes, or a hundred times faster.
    """

    recipe: str | None = None
    steps: tuple[Step, ...] = ()
    target: CompressTarget | None = None
    runtime: str = "onnxruntime"
    format: str = "onnx"
    profile: Literal["small", "fast"] = "small"

    @model_validator(mode="after")
    def one_source_of_steps(self) -> CompressParams:
        """Steps are written here or in a recipe file, or chosen for a target."""
        given = [name for name in ("recipe", "steps", "target") if getattr(self, name) not in (None, ())]
        if len(given) > 1:
            raise ValueError(f"has both {' and '.join(given)}: keep one of them")
        return self

    @model_validator(mode="after")
    def profile_of_a_coded_file(self) -> CompressParams:
        """No other file has profiles."""
        if self.profile != "small" and self.format != "coded":
            raise ValueError(f"profile: expected format: coded beside {self.profile!r}, got format {self.format!r}")
        return self


class Perturbation(Section):
    """A disturbance of the test inputs, under which every model answers once more.

    Args:
        strength: how much; of what, `records/perturbation_table.py` says. 0.1 where nothing is said.
    """

    name: Literal["gaussian_noise", "brightness", "shift", "dropout"]
    strength: float = Field(0.1, gt=0, le=1)


def parse_perturbation(value: Any) -> Any:
    """Turn ``gaussian_noise`` or ``{gaussian_noise: 0.2}`` into a :class:`Perturbation`'s fields."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1 and not value.keys() & Perturbation.model_fields.keys():
        name, strength = next(iter(value.items()))
        return {"name": name, "strength": strength}
    return value


PerturbationField = Annotated[Perturbation, BeforeValidator(parse_perturbation)]


class EvaluateParams(Section):
    """What is measured on the test split."""

    metrics: tuple[str, ...] | None = None
    perturbations: tuple[PerturbationField, ...] = ()

    @model_validator(mode="after")
    def one_of_each(self) -> EvaluateParams:
        """A perturbation is a slice by its name, so that no name may stand twice."""
        names = [one.name for one in self.perturbations]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"perturbations: {', '.join(twice)}: named twice: keep one of them")
        return self


class BenchmarkParams(Section):
    """How costs are measured."""

    threads: int = Field(1, ge=1)
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)
    budget_s: float = Field(60, gt=0)


class GateParams(Section):
    """The rules, expanded from the short form where that was used."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    rules: dict[str, Rule] = Field(default_factory=dict)
    policies: dict[str, Any] = Field(default_factory=dict)

    @property
    def alpha(self) -> float:
        """How often each bound may be wrong, where test data are asked once."""
        return 1 - self.confidence


class Params(Section):
    """All of ``params.yaml`` with every default filled in."""

    task: TaskParams
    prepare: PrepareParams = PrepareParams()
    train: TrainParams = TrainParams()
    compress: CompressParams = CompressParams()
    evaluate: EvaluateParams = EvaluateParams()
    benchmark: BenchmarkParams = BenchmarkParams()
    gate: GateParams = GateParams()
    search: SearchParams = SearchParams()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The quality metrics to produce; those of the task's kind unless the user names some."""
        return self.evaluate.metrics if self.evaluate.metrics is not None else DEFAULT_METRICS[self.task.kind]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, defaults filled in, the gate expanded: what digests and DVC see.

        ``search`` is not among them: no stage reads it, and what it finds is judged like any recipe.
        """
        plain = self.model_dump(mode="json", exclude={"search"})
        for rule in plain["gate"]["rules"].values():
            for name in LIMIT_NAMES:
                if rule[name] is not None:
                    rule[name] = str(Limit(**rule[name])) if rule[name]["relative"] else rule[name]["value"]
        return plain

    def with_rules(self, keep: Callable[[Rule], bool]) -> Params:
        """The same with only those rules of the gate that are to be kept."""
        rules = {name: rule for name, rule in self.gate.rules.items() if keep(rule)}
        return self.model_copy(update={"gate": self.gate.model_copy(update={"rules": rules})})

    @property
    def digest_of_task(self) -> str:
        """Changes with the task alone."""
        return digest_of(self.as_dict()["task"])

    @property
    def digest(self) -> str:
        """Changes when any value a stage may read changes, not with comments or layout."""
        return digest_of(self.as_dict())


DEFAULT_GATE: dict[str, float | str] = {
    "max_accuracy_drop": 0.01,
    "max_size_bytes": 400_000,
    "min_compression_ratio": 4,
    "max_latency_increase": "5%",
}
SHORT_NAMES = {"accuracy": "accuracy", "size_bytes": "size", "compression_ratio": "rate", "latency_ms": "latency"}
SHORT_METRICS = {"latency": "latency_ms", "size": "size_bytes"}


def short_rule(key: str, value: Any) -> tuple[str, dict[str, Any]] | None:
    """Expand one key of the short gate form, or return None where it is none.

    ``max_accuracy_drop`` reads as metric ``accuracy``, ``max_drop``; ``min_compression_ratio`` as ``min``.
    """
    if match := re.fullmatch(r"max_(\w+)_(drop|increase)", key):
        name, form = match[1], f"max_{match[2]}"
    elif match := re.fullmatch(r"(max|min)_(\w+)", key):
        name, form = match[2], match[1]
    else:
        return None
    metric = SHORT_METRICS.get(name, name)
    rule: dict[str, Any] = {"metric": metric, form: value}
    if metric == "latency_ms" and form == "max_increase":
        rule |= {"against": "baseline", "fallback": "reference"}
    return SHORT_NAMES.get(metric, name), rule


def read_params(folder: Path) -> Params:
    """Read ``params.yaml`` of a suite.

    Raises:
        ParamsError: every problem at once, each ``file:line: key.path: expected …, got … (did you mean …?)``.
    """
    if not folder.is_dir():
        raise ParamsError(f"-C: {folder}: expected the folder of a suite, got none of that name: mend the path")
    document = Document(folder / FILE_NAME, FILE_NAME)
    values = document.values
    if not isinstance(values, dict):
        raise ParamsError(f"{FILE_NAME}:1: expected a mapping with the key 'task', got {type(values).__name__}")
    values = json.loads(json.dumps(values))
    values.setdefault("gate", default_gate(values))
    gate = values["gate"]
    if isinstance(gate, dict):
        values["gate"] = expanded_gate(gate, document)
    try:
        params = Params.model_validate_json(json.dumps(values))
    except ValidationError as error:
        for item in error.errors():
            document.problem(*described(item, values))
        params = None
    check_rules(values, document)
    policies = values["gate"].get("policies") if isinstance(values.get("gate"), dict) else {}
    for path, text in policy_problems(policies, len(quality_levels(params.gate.rules)) if params else 1):
        document.problem(("gate", "policies", *path), text)
    if document.problems:
        raise ParamsError(sorted(dict.fromkeys(document.problems), key=lambda text: int(text.split(":")[1])))
    assert params is not None  # a ValidationError always leaves a problem
    return params


def default_gate(values: dict[str, Any]) -> dict[str, Any]:
    """The limits of a suite that sets none, in the short form; a task without classes has no accuracy to hold."""
    task = values.get("task")
    kind = task.get("kind", "classification") if isinstance(task, dict) else "classification"
    return {key: limit for key, limit in DEFAULT_GATE.items() if kind == "classification" or "accuracy" not in key}


def expanded_gate(gate: dict[str, Any], document: Document) -> dict[str, Any]:
    """Turn keys of the short form into rules, keeping for each the line it was written on."""
    full = {key: value for key, value in gate.items() if key in GateParams.model_fields}
    rules = dict(full["rules"]) if isinstance(full.get("rules"), dict) else full.get("rules", {})
    for key, value in gate.items():
        if key in GateParams.model_fields:
            continue
        short = short_rule(key, value)
        if short is None or not isinstance(rules, dict):
            known = [*GateParams.model_fields, "max_accuracy_drop", "max_size_bytes", "min_compression_ratio"]
            document.problem(("gate", key), unknown(key, [*known, "max_latency_increase"]))
            continue
        name, rule = short
        if name in rules:
            document.problem(("gate", key), f"says again what gate.rules.{name} says: keep one of them")
            continue
        rules[name] = rule
        line = document.line(("gate", key))
        for part in ((), ("metric",), *((form,) for form in LIMIT_NAMES)):
            document.lines[("gate", "rules", name, *part)] = line
    return {**full, "rules": rules}


def section_at(path: tuple[str, ...]) -> list[str]:
    """Names of the fields of the section that holds the last part of ``path``."""
    sections: dict[str, type[BaseModel]] = {
        name: field.annotation for name, field in Params.model_fields.items() if isinstance(field.annotation, type)
    }
    if len(path) == 1:
        return list(Params.model_fields)
    if path[:2] == ("gate", "rules"):
        return list(Rule.model_fields)
    return list(sections[path[0]].model_fields) if path[0] in sections else []


def described(item: Any, values: Any) -> tuple[tuple[str, ...], str]:
    """Turn one of pydantic's findings into our words."""
    path = tuple(str(part) for part in item["loc"])
    got = values
    for part in path:
        got = got[part] if isinstance(got, dict) and part in got else got
        if isinstance(got, list) and part.isdigit() and int(part) < len(got):
            got = got[int(part)]
    if item["type"] == "extra_forbidden":
        return path, unknown(path[-1], section_at(path))
    if item["type"] == "missing":
        return path, "is required and missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "literal_error":
        options = re.findall(r"'([^']*)'", str(item["ctx"]["expected"]))
        return path, f"expected {item['ctx']['expected']}, got {got!r}{nearest(got, options)}"
    if item["type"] == "value_error" and not message.startswith("expected"):
        return path, message
    message = message.replace("Input should be ", "expected ").replace("expected ", "expected ", 1)
    return path, f"{message}, got {got!r}"


PRODUCED = {
    "classification": (*DEFAULT_METRICS["classification"], "agreement", "flips"),
    "regression": DEFAULT_METRICS["regression"],
}


def check_rules(values: dict[str, Any], document: Document) -> None:
    """Find limits that are impossible, contradict each other, or speak of what does not exist."""
    rules = values.get("gate", {}).get("rules", {}) if isinstance(values.get("gate"), dict) else {}
    kind = values["task"].get("kind", "classification") if isinstance(values.get("task"), dict) else "classification"
    if not isinstance(rules, dict):
        return
    parsed: dict[str, Rule] = {}
    for name, value in rules.items():
        if not isinstance(value, dict):
            continue
        try:
            rule = Rule.model_validate_json(json.dumps(value))
        except ValidationError:
            continue
        parsed[name] = rule
        for key, text in rule_problems(name, rule, kind):
            document.problem(("gate", "rules", name, *key), text)
    for name, other in contradictions(parsed):
        document.problem(("gate", "rules", name), f"contradicts gate.rules.{other}: no value of the metric meets both")
    metrics = values["evaluate"].get("metrics") if isinstance(values.get("evaluate"), dict) else None
    for index, metric in enumerate(metrics if isinstance(metrics, list) else []):
        produced = PRODUCED.get(str(kind))
        if produced and metric not in produced:
            document.problem(("evaluate", "metrics", str(index)), unknown(str(metric), list(produced)))


def write_resolved(params: Params, path: Path) -> None:
    """Write the params with defaults filled in, section by section, for DVC to depend on.

    Each section has its digest in it: DVC's run cache overlooks every key that is called `size` or `nfiles`, so that
    without it another limit of a rule `size`, or another `model_args: {size: …}`, would bring an older result back.
    """
    plain = {name: {**section, "digest": digest_of(section)} for name, section in params.as_dict().items()}
    write_if_changed(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
