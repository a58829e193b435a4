"""``params.yaml``: what a user asks for, read with every problem named by file, line and key path."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from compression_gate.errors import ParamsError
from compression_gate.records.base import digest_of, write_text
from compression_gate.records.document import Document
from compression_gate.records.metric_table import DEFAULT_METRICS, METRICS
from compression_gate.records.search_params import SearchParams
from compression_gate.records.section import DottedPath, Section
from compression_gate.registry import nearest

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
    """What is done to the model, and what it ships as."""

    recipe: str | None = None
    steps: tuple[Step, ...] = ()
    target: CompressTarget | None = None
    runtime: str = "onnxruntime"
    format: str = "onnx"

    @model_validator(mode="after")
    def one_source_of_steps(self) -> CompressParams:
        """Steps are written here or in a recipe file, or chosen for a target."""
        given = [name for name in ("recipe", "steps", "target") if getattr(self, name) not in (None, ())]
        if len(given) > 1:
            raise ValueError(f"has both {' and '.join(given)}: keep one of them")
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


class Limit(Section):
    """A user's number: in the metric's own unit, or relative (0.05 for "5%") to what it is held against."""

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.relative else f"{self.value:g}"


def parse_limit(value: Any) -> Any:
    """Turn ``0.01`` or ``"5%"`` into a :class:`Limit`'s fields."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*%\s*", value)):
        return {"value": float(match[1]) / 100, "relative": True}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"value": float(value)}
    raise ValueError("expected a number, or a share like '5%'")


LimitField = Annotated[Limit, BeforeValidator(parse_limit)]
LIMIT_NAMES = ("max", "min", "max_drop", "max_increase")


class Rule(Section):
    """One metric, one limit, what it is held against, and how much it matters.

    Args:
        slice: a column of the test data (``class``: every class by itself) or one value of it (``class=3``).
        fallback: ``reference``: held against the reference while no baseline was ever recorded.
        accept_underpowered: judge on the observed value where the data can prove nothing.
    """

    metric: str
    max: LimitField | None = None
    min: LimitField | None = None
    max_drop: LimitField | None = None
    max_increase: LimitField | None = None
    against: Literal["reference", "baseline", "release"] = "reference"
    slice: str | None = None
    level: Literal["block", "warn", "info"] = "block"
    min_n: int | None = Field(None, ge=1)
    fallback: Literal["reference"] | None = None
    accept_underpowered: bool = False

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that were set, by name; a valid rule has exactly one."""
        return {name: limit for name in LIMIT_NAMES if (limit := getattr(self, name)) is not None}

    @property
    def form(self) -> str:
        """Which of the four forms the limit has."""
        return next(iter(self.limits))

    @property
    def limit(self) -> Limit:
        """The one limit."""
        return next(iter(self.limits.values()))


class GateParams(Section):
    """The rules, expanded from the short form where that was used."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    rules: dict[str, Rule] = Field(default_factory=dict)
    policies: dict[str, Any] = Field(default_factory=dict)


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
    values = json.loads(json.dumps(values, default=str))
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
    for path, text in policy_problems(values["gate"].get("policies") if isinstance(values.get("gate"), dict) else {}):
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


def unknown(key: str, known: list[str]) -> str:
    """Say that a key is unknown, and which are known."""
    return f"expected one of {', '.join(known)}, got {key!r}{nearest(key, known)}"


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


def rule_problems(name: str, rule: Rule, kind: str) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with one rule by itself: (key below the rule, what)."""
    problems: list[tuple[tuple[str, ...], str]] = []
    metric = METRICS.get(rule.metric)
    if metric is None and kind != "custom":
        problems.append((("metric",), unknown(rule.metric, list(METRICS))))
    if len(rule.limits) != 1:
        got = " and ".join(rule.limits) or "none"
        more = ": split it into two rules" if rule.limits else ""
        problems.append(((), f"has {got}; a rule has one limit of {', '.join(LIMIT_NAMES)}{more}"))
        return problems
    form, limit = rule.form, rule.limit
    change = form in ("max_drop", "max_increase")
    if change and limit.value < 0:
        problems.append(((form,), f"expected zero or more, got {limit}: a negative change can never be allowed"))
    if metric and metric.fraction and not limit.relative and not 0 <= abs(limit.value) <= 1:
        problems.append(((form,), f"{rule.metric} is a fraction: expected 0 to 1, got {limit} (one point is 0.01)"))
    if metric and not metric.fraction and not change and limit.value < 0:
        problems.append(((form,), f"{rule.metric} is never negative: expected zero or more, got {limit}"))
    if form == "max_drop" and limit.relative and limit.value > 1:
        problems.append(((form,), f"nothing can drop by more than 100%, got {limit}"))
    if rule.metric == "speedup" and change:
        problems.append(((form,), "speedup is a comparison with the reference itself: write min, or limit latency_ms"))
    elif metric and ((form == "max_drop") != (metric.better == "higher")) and change:
        right = "max_drop" if metric.better == "higher" else "max_increase"
        problems.append(((form,), f"{rule.metric} gets worse the other way: expected {right}, got {form}"))
    if not change and limit.relative:
        problems.append(((form,), f"an absolute limit is in the metric's own unit: expected a number, got {limit}"))
    return problems


POLICY_NAMES = ("pull_request", "release")
MOVABLE, ACTIONS = ("undecided", "waived", "fail"), ("block", "warn")
# What stands beside the two policies in `gate.policies`, and the words each takes.
SWITCHES = {"self_loosening": ACTIONS, "history": ("optional", "required")}
REUSE = "test_reuse"
REUSE_MODES = ("non_adaptive", "adaptive")


def policy_problems(overrides: Any) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with `gate.policies`: (key below it, what)."""
    if not isinstance(overrides, Mapping):
        return []  # pydantic says so
    problems: list[tuple[tuple[str, ...], str]] = []
    for name, changes in overrides.items():
        if name in SWITCHES:
            if changes not in SWITCHES[name]:
                problems.append(((name,), f"expected {' or '.join(SWITCHES[name])}, got {changes!r}"))
        elif name == REUSE:
            problems += [((name, *key), text) for key, text in reuse_problems(changes)]
        elif name not in POLICY_NAMES:
            problems.append(((name,), unknown(name, [*POLICY_NAMES, *SWITCHES, REUSE])))
        elif not isinstance(changes, Mapping):
            problems.append(((name,), f"expected a mapping of status to block or warn, got {changes!r}"))
        else:
            problems += [((name, *key), text) for key, text in override_problems(changes)]
    return problems


def reuse_problems(value: Any) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with `gate.policies.test_reuse`: null, or how many uses in which mode."""
    if value is None:
        return []
    if not isinstance(value, Mapping):
        return [((), f"expected null or {{uses: 50, mode: non_adaptive}}, got {value!r}")]
    problems: list[tuple[tuple[str, ...], str]] = []
    problems += [((key,), unknown(str(key), ["uses", "mode"])) for key in value if key not in ("uses", "mode")]
    uses, mode = value.get("uses"), value.get("mode")
    if not isinstance(uses, int) or isinstance(uses, bool) or not 1 <= uses <= MOST_USES:
        problems.append((("uses",), f"expected a whole number of 1 to {MOST_USES}, got {uses!r}"))
    if mode not in REUSE_MODES:
        problems.append((("mode",), f"expected {' or '.join(REUSE_MODES)}, got {mode!r}{nearest(mode, REUSE_MODES)}"))
    return problems


MOST_USES = 500  # the level of an adaptive use is smaller than any number a computer holds beyond about 600


def override_problems(changes: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with one policy's changes."""
    problems: list[tuple[tuple[str, ...], str]] = []
    for status, action in changes.items():
        if status not in MOVABLE:
            problems.append(((status,), f"expected {', '.join(MOVABLE)} (an error always blocks), got {status!r}"))
        elif action not in ACTIONS:
            problems.append(((status,), f"expected block or warn, got {action!r}"))
    return problems


def contradictions(rules: dict[str, Rule]) -> list[tuple[str, str]]:
    """Pairs of rules whose absolute limits leave nothing between them."""
    floors = {n: r for n, r in rules.items() if r.min is not None and len(r.limits) == 1}
    ceilings = {n: r for n, r in rules.items() if r.max is not None and len(r.limits) == 1}
    return [
        (low_name, high_name)
        for low_name, low in floors.items()
        for high_name, high in ceilings.items()
        if (low.metric, low.slice) == (high.metric, high.slice) and low.limit.value > high.limit.value
    ]


def write_resolved(params: Params, path: Path) -> None:
    """Write the params with defaults filled in, section by section, for DVC to depend on.

    Each section has its digest in it: DVC's run cache overlooks every key that is called `size` or `nfiles`, so that
    without it another limit of a rule `size`, or another `model_args: {size: …}`, would bring an older result back.
    """
    plain = {name: {**section, "digest": digest_of(section)} for name, section in params.as_dict().items()}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
