"""`params.yaml`: every problem at once, each with its line, its key path and the way out."""

import re
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import ParamsError
from compression_gate.records.params import Params, read_params, write_resolved

TASK = "task: {model: 'm:Net', data: 'm:load'}\n"

# What is written below the task's line, and what the message must hold; the task is line 1.
BAD_VALUES = [
    (
        "gate: {policies: {pull: {}}}",
        r":2: gate\.policies\.pull: expected one of pull_request, release, .*, got 'pull'",
    ),
    ("gate: {policies: {self_loosening: no}}", r"self_loosening: expected block or warn, got False"),
    ("gate: {policies: {history: never}}", r"policies\.history: expected optional or required, got 'never'"),
    ("gate: {policies: {test_reuse: 50}}", r"test_reuse: expected null or \{uses: 50, mode: non_adaptive\}, got 50"),
    ("gate: {policies: {test_reuse: {uses: 0, mode: adaptive}}}", r"test_reuse\.uses: expected a whole number"),
    ("gate: {policies: {test_reuse: {uses: 9, mode: adaptve}}}", r"test_reuse\.mode: .*did you mean 'adaptive'"),
    ("evaluate: {perturbations: [gausian_noise]}", r"perturbations\.0\.name: expected .*did you mean 'gaussian_noise'"),
    ("evaluate: {perturbations: [{shift: 2}]}", r"perturbations\.0\.strength: .*less than or equal to 1"),
    ("evaluate: {perturbations: [shift, {shift: 0.2}]}", r"shift: named twice"),
    ("gate: {policies: {release: {error: warn}}}", r"gate\.policies\.release\.error: .*an error always blocks"),
    ("gate: {policies: {release: {fail: no}}}", r"gate\.policies\.release\.fail: expected block or warn, got False"),
    ("gate: {policies: {release: 3}}", r"gate\.policies\.release: expected a mapping .*got 3"),
    ("evaluate: {metrics: [mae]}", r"evaluate\.metrics\.0: expected one of accuracy, .*, got 'mae'"),
    ("train: {epocs: 3}", r"params\.yaml:2: train\.epocs: expected one of .*'epocs' \(did you mean 'epochs'\?\)"),
    ("trian: {epochs: 3}", r"params\.yaml:2: trian: expected one of .*'trian' \(did you mean 'train'\?\)"),
    ("train:\n  epochs: many", r"params\.yaml:3: train\.epochs: expected .*integer.*got 'many'"),
    ("train: {epochs: 1.5}", r"train\.epochs: expected .*integer.*got 1\.5"),
    ("train: {epochs: '4'}", r"train\.epochs: expected .*integer.*got '4'"),
    ("train: {epochs: -1}", r"train\.epochs: expected .*greater than or equal to 0, got -1"),
    ("train: {learning_rate: 0}", r"train\.learning_rate: expected .*greater than 0, got 0"),
    ("train: {learning_rate: .nan}", r"train\.learning_rate: expected .*finite.*got nan"),
    ("train: {optimizer: adam}", r"train\.optimizer: expected .*got 'adam' \(did you mean 'adamw'\?\)"),
    ("train: {augment: [shift, rotat]}", r"train\.augment\.1: expected .*got 'rotat' \(did you mean 'rotate'\?\)"),
    ("train: 4", r"params\.yaml:2: train: expected .*got 4"),
    ("train:", r"params\.yaml:2: train: expected .*got None"),
    ("prepare: {allow: leaks}", r"prepare\.allow: expected .*got 'leaks'"),
    ("prepare: {allow: [leak]}", r"prepare\.allow\.0: expected .*got 'leak' \(did you mean 'leaks'\?\)"),
    ("compress: {steps: [{bits: 8}]}", r"compress\.steps\.0\.method: is required and missing"),
    ("compress: {steps: [static_quantization]}", r"compress\.steps\.0: expected .*got 'static_quantization'"),
    ("compress: {profile: fast}", r"profile: expected format: coded beside 'fast', got format 'onnx'"),
    ("compress: {format: coded, profile: quick}", r"compress\.profile: expected .*small.*fast.*got 'quick'"),
    ("compress: {format: 5}", r"params\.yaml:2: compress\.format: expected .*string.*got 5"),
    ("compress: {recipe: r.json, steps: [{method: x}]}", r"compress: has both recipe and steps: keep one of them"),
    ("evaluate: {metrics: [acuracy]}", r"evaluate\.metrics\.0: expected .*'acuracy' \(did you mean 'accuracy'\?\)"),
    ("benchmark: {batch_sizes: []}", r"benchmark\.batch_sizes: .*got \[\]"),
    ("benchmark: {batch_sizes: [1, 0]}", r"benchmark\.batch_sizes\.1: expected .*got 0"),
    ("gate: {confidence: 95}", r"gate\.confidence: expected .*less than 1, got 95"),
    (
        "gate: {max_acuracy_drop: 0.01}",
        r":2: gate\.rules\.acuracy\.metric: .*\(did you mean 'accuracy'\?\)",
    ),
    ("gate: {accuracy: 0.01}", r"params\.yaml:2: gate\.accuracy: expected one of .*got 'accuracy'"),
    ("gate: {max_accuracy_drop: much}", r"params\.yaml:2: gate\.rules\.accuracy\.max_drop: expected a number.*'much'"),
    ("gate: {max_accuracy_drop: 1.2.3%}", r"gate\.rules\.accuracy\.max_drop: expected a number.*'1\.2\.3%'"),
    ("gate: {max_accuracy_drop: .inf}", r"gate\.rules\.accuracy\.max_drop.*finite"),
    ("gate: {rules: {a: {max: 1}}}", r"gate\.rules\.a\.metric: is required and missing"),
    ("gate: {rules: [accuracy]}", r"params\.yaml:2: gate\.rules: expected .*got \['accuracy'\]"),
    ("gate: 5", r"params\.yaml:2: gate: expected .*got 5"),
]

BAD_LIMITS = [
    ("{metric: speedup, max_drop: 0.1}", r"max_drop: speedup is a comparison with the reference itself: write min"),
    ("{metric: accuracy, max_drop: 2}", r"max_drop: accuracy is a fraction: expected 0 to 1, got 2"),
    ("{metric: accuracy, max_drop: -0.01}", r"max_drop: expected zero or more, got -0\.01"),
    ("{metric: accuracy, max_drop: '120%'}", r"max_drop: nothing can drop by more than 100%, got 120%"),
    ("{metric: size_bytes, max: -1}", r"max: size_bytes is never negative: expected zero or more, got -1"),
    ("{metric: accuracy, max_increase: 0.1}", r"max_increase: .*expected max_drop, got max_increase"),
    ("{metric: latency_ms, max_drop: 1}", r"max_drop: .*expected max_increase, got max_drop"),
    ("{metric: size_bytes, max: '5%'}", r"max: an absolute limit is in the metric's own unit: .*got 5%"),
    ("{metric: accuracy}", r"gate\.rules\.a: has none; a rule has one limit"),
    ("{metric: size_bytes, max: 1, max_increase: 1}", r"gate\.rules\.a: has max and max_increase; .*split it into two"),
    ("{metric: accuracy, min: 0.5, against: refrence}", r"against: .*'refrence' \(did you mean 'reference'\?\)"),
    ("{metric: accuracy, min: 0.5, level: warning}", r"level: .*'warning' \(did you mean 'warn'\?\)"),
    ("{metric: accuracy, min: 0.5, slise: class}", r"slise: expected one of .*\(did you mean 'slice'\?\)"),
    ("{metric: accuracy, min: 0.5, accept_underpowered: true}", r"accept_underpowered: .*no effect on min of accuracy"),
    ("{metric: f1, max_drop: 0.1, slice: class, accept_underpowered: true}", r"accept_underpowered: .*max_drop of f1"),
    ("{metric: recall, max_drop: 0.1, slice: night, accept_underpowered: true}", r"accept_underpowered: .*of recall"),
    ("{metric: size_bytes, max: 9, accept_underpowered: true}", r"accept_underpowered: .*max of size_bytes: it works"),
]

BAD_YAML = [
    ("task: [", r"^params\.yaml:\d+: not YAML: "),
    ("task:\n\tmodel: x", r"^params\.yaml:2: not YAML: .*tab|^params\.yaml:2: not YAML: .*'\\t'"),
    ("a: 1\n---\nb: 2", r"^params\.yaml:\d+: not YAML: .*another document"),
    ("x\x00y", r"^params\.yaml:1: not YAML: "),
    ("task: &a [*a]", r"^params\.yaml:1: task\.0: holds itself"),
    (f"train: {{}}\ntask: {'[' * 3000}{']' * 3000}", r"^params\.yaml:2: not YAML: .*at most 100 levels"),
    ("task: {}\n? !!binary aGk=\n: 1", r"^params\.yaml:2: aGk=: expected .*, got a value of the kind !!binary"),
    ("? !!timestamp 2020-01-01\n: 1", r"^params\.yaml:1: 2020-01-01: expected .*, got a value of the kind !!timestamp"),
    (f"{TASK}train:\n  augment: !!set {{shift}}", r"^params\.yaml:3: train\.augment: expected .* of the kind !!set"),
    (f"{TASK}train:\n  seed: !!int ''", r"^params\.yaml:3: not YAML: a value is not of its kind: expected int, got ''"),
    ("task: {}\ntrain: !!bool 5", r"^params\.yaml:2: not YAML: a value is not of its kind: expected bool, got '5'"),
    ('task: {}\ntrain: {seed: ["\\uD800"]}', r"^params\.yaml:2: not YAML: a value is not of its kind: expected str"),
    ('? "\\uD800"\n: 1', r"^params\.yaml:1: not YAML: a value is not of its kind: expected str"),
    (f"task: {{}}\ngate: {{max_size_bytes: {'9' * 400}}}", r"^params\.yaml:2: gate\.rules\.size\..*expected a "),
    ("task: !!timestamp tomorrow", r"^params\.yaml:1: not YAML: a value is not of its kind: expected timestamp"),
    ("", r"^params\.yaml:1: expected a mapping with the key 'task', got NoneType"),
    ("- task", r"^params\.yaml:1: expected a mapping .*got list"),
    ("train: {}", r"^params\.yaml:1: task: is required and missing"),
    ("task: 5", r"^params\.yaml:1: task: expected .*got 5"),
    ("task: {data: 'm:load'}", r"^params\.yaml:1: task\.model: is required and missing"),
    (
        "task: {model: Net, data: 'm:load'}",
        r"task\.model: expected a dotted path like .*, got 'Net'",
    ),
    ("task: {model: 'm:Net', data: 'm:l', kind: custom}", r"task: kind custom needs task\.scorer"),
    (TASK + "train: {seed: 1}\ntrain: {seed: 2}", r"^params\.yaml:3: train: is written twice"),
]


def problems_of(folder, text):
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        read_params(folder)
    assert caught.value.exit_code == 2
    return caught.value.problems


@pytest.mark.parametrize(("text", "expected"), BAD_VALUES)
def test_bad_value_is_told_with_line_path_and_what_was_expected(tmp_path, text, expected):
    problems = problems_of(tmp_path, TASK + text + "\n")
    assert any(re.search(expected, problem) for problem in problems), problems
    assert len(problems) == 1, problems


@pytest.mark.parametrize(("rule", "expected"), BAD_LIMITS)
def test_impossible_limit_is_told_at_its_line(tmp_path, rule, expected):
    problems = problems_of(tmp_path, TASK + f"gate:\n  rules:\n    a: {rule}\n")
    assert len(problems) == 1, problems
    assert problems[0].startswith("params.yaml:4: gate.rules.a")
    assert re.search(expected, problems[0]), problems


ACCEPTED = [
    "{metric: accuracy, max_drop: 0.1, accept_underpowered: true}",
    "{metric: flips, max_increase: 0.1, slice: night, accept_underpowered: true}",
    "{metric: recall, max_drop: 0.1, slice: class=3, accept_underpowered: true}",
    "{metric: accuracy, min: 0.1, accept_underpowered: false}",
]


@pytest.mark.parametrize("rule", ACCEPTED)
def test_too_little_power_may_be_accepted_where_power_is_known(tmp_path, rule):
    (tmp_path / "params.yaml").write_text(TASK + f"gate:\n  rules:\n    a: {rule}\n")
    assert read_params(tmp_path).gate.rules["a"].accept_underpowered == ("true" in rule)


@pytest.mark.parametrize(("text", "expected"), BAD_YAML)
def test_what_is_no_params_file_is_told_in_one_line(tmp_path, text, expected):
    problems = problems_of(tmp_path, text)
    assert any(re.search(expected, problem) for problem in problems), problems


def test_missing_file_names_the_command_that_writes_it(tmp_path):
    with pytest.raises(ParamsError, match=r"params\.yaml: missing: `compression-gate init --model"):
        read_params(tmp_path)


def test_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match=r"params\.yaml: cannot be read as text"):
        read_params(tmp_path)


MANY_PROBLEMS = """\
task:
  model: m:Net
  data: m:load
  kinds: regression
train: {epochs: -1, optimizer: adam, seed: x}
gate:
  rules:
    a: {metric: acuracy, max_drop: 0.01}
    b: {metric: accuracy, min: 0.9}
    c: {metric: accuracy, max: 0.8}
    d: {metric: size_bytes, max: 1, min: 2}
"""


def test_every_problem_is_told_at_once_in_the_order_of_the_lines(tmp_path):
    problems = problems_of(tmp_path, MANY_PROBLEMS)
    places = [problem.split(": ")[0:2] for problem in problems]
    assert places == [
        ["params.yaml:4", "task.kinds"],
        ["params.yaml:5", "train.epochs"],
        ["params.yaml:5", "train.optimizer"],
        ["params.yaml:5", "train.seed"],
        ["params.yaml:8", "gate.rules.a.metric"],
        ["params.yaml:9", "gate.rules.b"],
        ["params.yaml:11", "gate.rules.d"],
    ], problems


def test_contradictory_limits_name_each_other(tmp_path):
    text = TASK + "gate:\n  rules:\n    low: {metric: accuracy, min: 0.9}\n    high: {metric: accuracy, max: 0.8}\n"
    assert problems_of(tmp_path, text) == (
        "params.yaml:4: gate.rules.low: contradicts gate.rules.high: no value of the metric meets both",
    )


def test_short_form_that_repeats_a_rule_is_refused(tmp_path):
    text = TASK + "gate:\n  max_accuracy_drop: 0.01\n  rules: {accuracy: {metric: accuracy, min: 0.9}}\n"
    assert problems_of(tmp_path, text) == (
        "params.yaml:3: gate.max_accuracy_drop: says again what gate.rules.accuracy says: keep one of them",
    )


def test_short_form_expands_to_the_rules_of_the_contract(tmp_path):
    gate = (
        "gate: {max_accuracy_drop: 0.01, max_size_bytes: 400000, min_compression_ratio: 4, max_latency_increase: '5%'}"
    )
    (tmp_path / "params.yaml").write_text(TASK + gate)
    rules = read_params(tmp_path).gate.rules
    assert {name: (rule.metric, rule.form, str(rule.limit), rule.against) for name, rule in rules.items()} == {
        "accuracy": ("accuracy", "max_drop", "0.01", "reference"),
        "size": ("size_bytes", "max", "400000", "reference"),
        "rate": ("compression_ratio", "min", "4", "reference"),
        "latency": ("latency_ms", "max_increase", "5%", "baseline"),
    }
    assert rules["latency"].fallback == "reference"


def test_custom_kind_may_name_any_metric(tmp_path):
    text = "task: {model: 'm:N', data: 'm:l', kind: custom, scorer: 'm:s'}\ngate: {max_dice_drop: 0.1}\n"
    (tmp_path / "params.yaml").write_text(text)
    assert read_params(tmp_path).gate.rules["dice"].metric == "dice"


def test_defaults_are_those_of_the_contract(tmp_path):
    (tmp_path / "params.yaml").write_text(TASK)
    params = read_params(tmp_path)
    assert params.train.model_dump() == {
        "epochs": 4,
        "batch_size": 128,
        "learning_rate": 0.003,
        "optimizer": "adamw",
        "schedule": "one_cycle",
        "precision": "auto",
        "normalize": False,
        "augment": (),
        "seed": 0,
        "device": "auto",
    }
    assert params.metrics == ("accuracy", "precision", "recall", "f1")
    assert (params.compress.runtime, params.compress.format) == ("onnxruntime", "onnx")


def test_dynamic_axes_are_numbers(tmp_path):
    (tmp_path / "params.yaml").write_text("task: {model: 'm:N', data: 'm:l', dynamic: {ids: {1: length}}}\n")
    assert read_params(tmp_path).task.dynamic == {"ids": {1: "length"}}


def test_digest_ignores_comments_layout_and_defaults_written_out(tmp_path):
    (tmp_path / "params.yaml").write_text(TASK + "gate: {max_accuracy_drop: 0.01}\n")
    short = read_params(tmp_path)
    rule = "{metric: accuracy, max_drop: 1.0e-2, against: reference}"
    (tmp_path / "params.yaml").write_text(f"# words\ngate:\n  rules:\n    accuracy: {rule}\ntrain: {{seed: 0}}\n{TASK}")
    assert read_params(tmp_path).digest == short.digest


def test_digest_changes_with_a_value(tmp_path):
    (tmp_path / "params.yaml").write_text(TASK)
    before = read_params(tmp_path).digest
    (tmp_path / "params.yaml").write_text(TASK + "train: {seed: 1}\n")
    assert read_params(tmp_path).digest != before


def test_params_are_frozen(tmp_path):
    (tmp_path / "params.yaml").write_text(TASK)
    with pytest.raises(ValueError, match="frozen"):
        read_params(tmp_path).train.epochs = 5


def test_resolved_params_hold_every_default_and_are_left_alone_while_equal(tmp_path):
    (tmp_path / "params.yaml").write_text(TASK + "gate: {max_latency_increase: '5%'}\n")
    params, path = read_params(tmp_path), tmp_path / "state" / "params.yaml"
    write_resolved(params, path)
    values = yaml.safe_load(path.read_text())
    assert values["train"]["batch_size"] == 128
    assert values["gate"]["rules"]["latency"]["max_increase"] == "5%"
    first = path.stat()
    write_resolved(params, path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


OVERLOOKED = [
    ("task", {"model_args": {"size": 8}}, {"model_args": {"size": 9}}),
    ("task", {"data_args": {"nfiles": 1}}, {"data_args": {"nfiles": 2}}),
    ("gate", {"max_size_bytes": 100}, {"max_size_bytes": 200}),  # the rule is called size
]


@pytest.mark.parametrize(("section", "before", "after"), OVERLOOKED)
def test_dvc_s_run_cache_sees_every_change_of_a_section(tmp_path, section, before, after):
    """It leaves keys called size and nfiles out of what it hashes, however deep they lie."""
    from dvc.stage.cache import _get_cache_hash

    keys = []
    for changed in (before, after):
        plain = yaml.safe_load(TASK)
        plain[section] = plain.get(section, {}) | changed
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(plain))
        write_resolved(read_params(tmp_path), tmp_path / "resolved.yaml")
        values = yaml.safe_load((tmp_path / "resolved.yaml").read_text())
        keys.append(_get_cache_hash({"params": {section: values[section]}}, key=True))
    assert keys[0] != keys[1]


SHARES = st.floats(0, 1, allow_subnormal=False)


@given(
    epochs=st.integers(0, 99),
    rate=st.floats(1e-6, 1),
    drop=SHARES,
    relative=st.integers(0, 100),
    names=st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=6), unique=True, min_size=2, max_size=2),
)
def test_what_is_resolved_reads_back_as_the_same_params(tmp_path_factory, epochs, rate, drop, relative, names):
    folder = tmp_path_factory.mktemp("params")
    rules = {
        names[0]: {"metric": "accuracy", "max_drop": drop},
        names[1]: {"metric": "latency_ms", "max_increase": f"{relative}%", "against": "baseline"},
    }
    values = {
        "task": {"model": "m:Net", "data": "m:load"},
        "train": {"epochs": epochs, "learning_rate": rate},
        "gate": {"rules": rules},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    params = read_params(folder)
    write_resolved(params, folder / "params.yaml")
    plain = yaml.safe_load((folder / "params.yaml").read_text())
    without = {name: {key: one for key, one in section.items() if key != "digest"} for name, section in plain.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(without))
    again = read_params(folder)
    assert again == params
    assert again.digest == params.digest


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(0, 3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(section=st.sampled_from(sorted(Params.model_fields)), value=YAML_VALUES)
def test_any_value_is_taken_or_refused_with_file_and_line(tmp_path_factory, section, value):
    """No value whatsoever ends in anything else than params or a `ParamsError` whose every problem has its place."""
    folder = tmp_path_factory.mktemp("params")
    values = {"task": {"model": "m:Net", "data": "m:load"}, section: value}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    problems = ["params.yaml:1: none"]
    try:
        read_params(folder)
    except ParamsError as error:
        problems = list(error.problems)
    assert problems
    assert all(re.match(r"params\.yaml:\d+: ", problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("kind", "rules"),
    [("classification", ["accuracy", "size", "rate", "latency"]), ("regression", ["size", "rate", "latency"])],
)
def test_a_suite_without_a_gate_is_held_to_the_default_limits(tmp_path, kind, rules):
    """Saying nothing must not let everything pass."""
    (tmp_path / "params.yaml").write_text(f"task: {{model: 'a:B', data: 'c:d', kind: {kind}}}\n")
    assert list(read_params(tmp_path).gate.rules) == rules


def test_a_gate_that_is_written_empty_stays_empty(tmp_path):
    (tmp_path / "params.yaml").write_text("task: {model: 'a:B', data: 'c:d'}\ngate: {rules: {}}\n")
    assert read_params(tmp_path).gate.rules == {}
