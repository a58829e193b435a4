"""From records to checks: what passes, what fails, and that nothing missing or broken ever passes."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compression_gate.gate.facts import Question
from compression_gate.gate.intervals import Estimate
from compression_gate.gate.judge import decided
from compression_gate.gate.limits import bound_of, judged
from compression_gate.records.history import History
from compression_gate.records.params import read_params
from compression_gate.records.rules import Rule
from compression_gate.records.verdict import Verdict
from compression_gate.reporters import wording
from compression_gate.selftest.mutations import control_of
from compression_gate.stages import check, gate, report
from compression_gate.stages.record import is_lost


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change a JSON or YAML file's values."""
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    values = load(path.read_text())
    change(values)
    path.write_text(dump(values))


def statuses(verdict: Verdict) -> dict[str, str]:
    """Each rule's status, slices joined."""
    return {f"{one.rule}{f'/{one.slice}' if one.slice else ''}": one.status for one in verdict.checks}


def test_a_good_run_passes_every_rule(finished: Path) -> None:
    verdict = gate.run(finished)
    assert set(statuses(verdict).values()) == {"pass"}
    assert (verdict.status, verdict.exit_code) == ("pass", 0)
    assert check.check(finished, "pull_request").exit_code == 0


def test_a_statistical_check_says_n_interval_and_what_it_would_catch(finished: Path) -> None:
    accuracy = next(one for one in gate.run(finished).checks if one.rule == "accuracy")
    assert accuracy.n == 4000
    assert accuracy.interval is not None
    assert accuracy.interval[0] <= accuracy.change <= accuracy.interval[1] < 0
    assert accuracy.change == pytest.approx(-0.005)
    assert accuracy.minimum_detectable > 0.01


RULES = [  # rule, expected status
    ({"metric": "accuracy", "max_drop": 0.002}, "fail"),
    ({"metric": "accuracy", "max_drop": "1%"}, "pass"),
    ({"metric": "accuracy", "min": 0.95}, "fail"),
    ({"metric": "accuracy", "min": 0.895}, "undecided"),
    ({"metric": "size_bytes", "max": 1000}, "pass"),
    ({"metric": "size_bytes", "max": 999}, "fail"),
    ({"metric": "size_bytes", "max_increase": "0%"}, "pass"),
    ({"metric": "parameters", "max": 249}, "fail"),
    ({"metric": "latency_ms", "max_increase": "5%"}, "pass"),
    ({"metric": "latency_ms", "max_increase": "5%", "against": "baseline", "fallback": "reference"}, "pass"),
    ({"metric": "speedup", "min": 2.0}, "fail"),
    ({"metric": "speedup", "min": 2.2}, "fail"),
    ({"metric": "latency_ms", "max": 0.2}, "pass"),
    ({"metric": "latency_ms", "max": 0.105}, "undecided"),
    ({"metric": "f1", "max_drop": 0.0001}, "fail"),
    ({"metric": "precision", "max_drop": 0.1}, "error"),
    ({"metric": "load_time_ms", "max": 5}, "error"),
    ({"metric": "recall", "slice": "colour", "max_drop": 0.1}, "error"),
    ({"metric": "recall", "slice": "class=2", "max_drop": 0.1}, "pass"),
    ({"metric": "recall", "slice": "class=2", "max_drop": 0.1, "min_n": 2000}, "error"),
    ({"metric": "accuracy", "max_drop": 0.05, "against": "baseline"}, "error"),
]


@pytest.mark.parametrize(("rule", "expected"), RULES)
def test_each_kind_of_rule_is_judged_by_its_evidence(finished: Path, rule: dict, expected: str) -> None:
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": rule}))
    assert list(statuses(gate.run(finished)).values()) == [expected]


def test_a_missing_baseline_is_told_and_does_not_block_before_the_first_record(finished: Path) -> None:
    rule = {"metric": "accuracy", "max_drop": 0.05, "against": "baseline"}
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": rule}))
    verdict = gate.run(finished)
    assert verdict.exit_code == 0
    assert any("no_baseline" in text for text in verdict.warnings)


def test_an_underpowered_rule_is_refused_with_three_ways_out(finished: Path) -> None:
    edit(
        finished / "params.yaml",
        lambda values: values["gate"].update(rules={"one": {"metric": "accuracy", "max_drop": 0.0001}}),
    )
    answer_alike(finished)
    one = gate.run(finished).checks[0]
    assert (one.status, one.reason) == ("error", "underpowered")
    assert "examples" in one.message
    assert "accept_underpowered" in one.message


def test_an_accepted_underpowered_rule_is_judged_on_its_value_and_said_so(finished: Path) -> None:
    rule = {"metric": "accuracy", "max_drop": 0.0001, "accept_underpowered": True}
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": rule}))
    answer_alike(finished)
    one = gate.run(finished).checks[0]
    assert (one.status, one.proven) == ("pass", False)
    assert "not proven" in one.message


def test_a_loss_of_just_the_limit_is_inside_whatever_rounding_adds() -> None:
    """0.88 - 0.89 is -0.010000000000000009, and 0.7 - 0.8 is -0.10000000000000009."""
    few = Estimate(
        observed=0.88, compared_to=0.89, interval=(-0.05, 0.03), statistical=True, n=100, discordance=0.01, alpha=0.05
    )
    exact = Estimate.exact(0.7, 0.8)
    for estimate, rule in (
        (few, {"metric": "accuracy", "max_drop": 0.01, "accept_underpowered": True}),
        (exact, {"metric": "sparsity", "max_drop": 0.1}),
    ):
        question = Question(name="one", rule=Rule.model_validate_json(json.dumps(rule)), slice=None, against="baseline")
        assert decided(question, estimate).status == "pass"


def test_a_figure_on_its_limit_is_promised_no_number_of_examples(finished: Path) -> None:
    edit(finished / "params.yaml", lambda v: v["gate"]["rules"].update(one={"metric": "accuracy", "max_drop": 0.005}))
    (one,) = (one for one in gate.run(finished).checks if one.rule == "one")
    assert (one.status, one.settled_by) == ("undecided", None)


def answer_alike(finished: Path) -> None:
    """Let the candidate answer as the reference does."""
    rewrite(finished, lambda arrays: arrays.update(candidate_predicted=arrays["reference_predicted"]))
    evaluation(lambda v: v["models"]["candidate"].update(metrics=v["models"]["reference"]["metrics"]))(finished)


def test_of_a_limit_of_zero_no_number_of_examples_is_promised(finished: Path) -> None:
    edit(
        finished / "params.yaml",
        lambda values: values["gate"].update(rules={"one": {"metric": "accuracy", "max_drop": 0}}),
    )
    answer_alike(finished)
    message = gate.run(finished).checks[0].message
    assert "no number suffices" in message
    assert "0 examples" not in message


def rewrite(finished: Path, change: Callable[[dict], object]) -> None:
    """Change the outcomes, and the evaluation's digest of them, as a run of evaluate would."""
    path = finished / "reports/predictions.npz"
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    from compression_gate.records.base import digest_of_file

    edit(finished / "reports/evaluation.json", lambda values: values.update(predictions_digest=digest_of_file(path)))


def evaluation(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda suite: edit(suite / "reports/evaluation.json", change)


def benchmark(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda suite: edit(suite / "reports/benchmark.json", change)


def write_machine(suite: Path, text: str) -> None:
    """Say which machine this is, as `run` does."""
    (suite / ".compression_gate").mkdir(exist_ok=True)
    (suite / ".compression_gate/machine.json").write_text(text)


RECORDS = ("data.json", "compression.json", "evaluation.json", "predictions.npz", "benchmark.json")


def remove(suite: Path, name: str) -> None:
    (suite / "reports" / name).unlink()


MUTATIONS: dict[str, Callable[[Path], object]] = {
    "metric deleted": evaluation(lambda v: v["models"]["candidate"]["metrics"].pop("accuracy")),
    "metric null": evaluation(lambda v: v["models"]["candidate"]["metrics"]["accuracy"].update(value=None)),
    "slice deleted": evaluation(lambda v: v["models"]["candidate"]["slices"].clear()),
    "other data": evaluation(lambda v: v.update(data_digest="other")),
    "other candidate evaluated": evaluation(lambda v: v["models"]["candidate"].update(digest="other")),
    "other candidate timed": benchmark(lambda v: v["models"]["candidate"].update(digest="other")),
    "size null": benchmark(lambda v: v["models"]["candidate"]["figures"]["size_bytes"].update(value=None)),
    "size disagrees": benchmark(lambda v: v["models"]["candidate"]["figures"]["size_bytes"].update(value=7)),
    "ratio deleted": benchmark(lambda v: v["models"]["candidate"]["figures"].pop("compression_ratio")),
    "pair deleted": benchmark(lambda v: v["pairs"].clear()),
    "pair without ratio": benchmark(lambda v: v["pairs"]["reference"].update(ratio=None)),
    "pair without interval": benchmark(lambda v: v["pairs"]["reference"].update(interval=[None, None])),
    "pair turned round": benchmark(lambda v: v["pairs"]["reference"].update(interval=[0.52, 0.48])),
    "pair of nothing": benchmark(lambda v: v["pairs"]["reference"].update(ratio=0, interval=[0, 0])),
    "timed with other threads": benchmark(lambda v: v.update(threads=4)),
    "timed in another runtime": benchmark(lambda v: v.update(runtime="torch")),
    "timed at another batch size": benchmark(lambda v: v.update(batch_sizes=[8])),
    "evaluated in another runtime": evaluation(lambda v: v.update(runtime="torch")),
    "evaluated as another kind": evaluation(lambda v: v.update(kind="regression")),
    "candidate not evaluated": evaluation(lambda v: v["models"].pop("candidate")),
    "no model evaluated": evaluation(lambda v: v["models"].clear()),
    "no model timed": benchmark(lambda v: v["models"].clear()),
    "metric edited": evaluation(lambda v: v["models"]["candidate"]["metrics"]["accuracy"].update(value=0.99)),
    "slice edited": evaluation(lambda v: v["models"]["candidate"]["slices"]["recall"]["class=1"].update(value=0.99)),
    "half of the examples": lambda s: rewrite(s, lambda a: a.update({k: v[:1500] for k, v in a.items()})),
    "role without outcomes": lambda s: rewrite(s, lambda a: a.pop("reference_predicted")),
    "labels that are text": lambda s: rewrite(
        s, lambda a: a.update(candidate_predicted=np.array(["x"] * 4000, dtype=np.str_))
    ),
    "candidate of another reference": lambda s: edit(
        s / "models/candidate/artifact.json", lambda v: v.update(parent_digest="other")
    ),
    "candidate of another recipe": lambda s: edit(
        s / "reports/compression.json", lambda v: v.update(recipe_digest="other")
    ),
    "timed on another machine": lambda s: write_machine(s, '{"processor": "another"}'),
    "machine file damaged": lambda s: write_machine(s, "{"),
    "control alarms": benchmark(lambda v: v["pairs"]["reference"].update(control_of(1.05))),
    "step without effect": lambda s: edit(
        s / "reports/compression.json", lambda v: v["steps"][0].update(effective=False)
    ),
    "truncated json": lambda s: (s / "reports/evaluation.json").write_text('{"schema": 1, "mod'),
    "NaN in json": lambda s: (s / "reports/benchmark.json").write_text(
        (s / "reports/benchmark.json").read_text().replace('"value": 2.0', '"value": NaN')
    ),
    "truncated predictions": lambda s: (s / "reports/predictions.npz").write_bytes(
        (s / "reports/predictions.npz").read_bytes()[:500]
    ),
    "predictions of another run": lambda s: np.savez(
        s / "reports/predictions.npz", ids=np.arange(3), target=np.arange(3)
    ),
    "duplicate ids": lambda s: rewrite(s, lambda a: a.update(ids=np.full(4000, "same"))),
    "columns of two lengths": lambda s: rewrite(
        s, lambda a: a.update(candidate_predicted=a["candidate_predicted"][:9])
    ),
    "one class deleted": evaluation(lambda v: v["models"]["candidate"]["slices"]["recall"].pop("class=2")),
    "other number of examples": evaluation(lambda v: v.update(n=5)),
    "timings gone": lambda s: (s / "reports/timings.npz").unlink(),
    "sources damaged": lambda s: (s / ".compression_gate/sources.json").write_text(""),
    "candidate gone": lambda s: shutil.rmtree(s / "models/candidate"),
    "weights moved to a side file": lambda s: (s / "models/candidate/model.onnx.data").write_bytes(b"weights"),
    "candidate edited": lambda s: (s / "models/candidate/model.onnx").write_bytes(b"x" * 1000),
    **{f"{name} gone": partial(remove, name=name) for name in RECORDS},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_nothing_missing_or_broken_passes(finished: Path, name: str) -> None:
    MUTATIONS[name](finished)
    verdict = gate.run(finished)
    assert verdict.exit_code == 4, statuses(verdict)
    assert all(one.mending for one in verdict.checks if one.status == "error")


SPEED_ONLY = {
    "other candidate timed": benchmark(lambda v: v["models"]["candidate"].update(digest="other")),
    "other reference timed": benchmark(lambda v: v["models"]["reference"].update(digest="other")),
    "candidate not timed": benchmark(lambda v: v["models"].pop("candidate")),
}
SPEED_RULES = [{"metric": "speedup", "min": 1.5}, {"metric": "latency_ms", "max_increase": "5%"}]


@pytest.mark.parametrize("name", SPEED_ONLY)
@pytest.mark.parametrize("rule", SPEED_RULES)
def test_pairs_of_other_models_never_pass(finished: Path, name: str, rule: dict) -> None:
    """Where nothing but a pair is judged, its models must still be the ones on disk."""
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": rule}))
    SPEED_ONLY[name](finished)
    assert gate.run(finished).exit_code == 4


def test_a_time_without_a_spread_is_not_trusted(finished: Path) -> None:
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": {"metric": "latency_ms", "max": 5}}))
    benchmark(lambda v: v["models"]["candidate"]["figures"]["latency_ms"].update(low=None, high=None))(finished)
    one = gate.run(finished).checks[0]
    assert (one.status, one.reason) == ("error", "untrusted_timing")


def test_throughput_at_a_larger_batch_is_not_judged_by_pairs_of_the_first(finished: Path) -> None:
    rule = {"metric": "throughput_per_s", "max_drop": "5%"}
    edit(finished / "params.yaml", lambda v: v.update(benchmark={"batch_sizes": [1, 8]}))
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": rule}))
    for role, value in (("reference", 1000), ("candidate", 700)):
        figure = {"value": value, "unit": "per_s", "samples": 50, "low": value - 9, "high": value + 9}
        benchmark(lambda v, r=role, f=figure: v["models"][r]["figures"].update(throughput_per_s=f))(finished)
    benchmark(lambda v: v.update(batch_sizes=[1, 8]))(finished)
    assert statuses(gate.run(finished)) == {"one": "fail"}


@pytest.mark.parametrize("level", ["block", "warn", "info"])
def test_a_fault_while_judging_is_an_error_of_that_rule_and_leaves_a_verdict(
    finished: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    from compression_gate.gate import judge

    def fault(*_: object) -> None:
        raise KeyError("nothing of the kind")

    monkeypatch.setitem(judge.ESTIMATORS, "paired_proportion", fault)
    edit(finished / "params.yaml", lambda v: v["gate"]["rules"]["accuracy"].update(level=level))
    verdict = gate.run(finished)
    one = verdict.checks[0]
    assert (one.status, one.reason) == ("error", "crashed")
    assert "KeyError" in one.message
    assert verdict.exit_code == 4
    assert statuses(verdict)["size"] == "pass"


COLUMNS = {"half": np.array(["a", "b=c"])[np.arange(4000) // 4 % 2], "age": np.array([str(n % 3) for n in range(4000)])}
BY_COLUMN = [  # metric, slice, status of each check
    ("accuracy", "half", {"half=a": "pass", "half=b=c": "pass"}),
    ("accuracy", "age=2", {"age=2": "pass"}),
    ("f1", "half=a", {"half=a": "pass"}),
    ("recall", "half=a", {"half=a": "pass"}),
]


def with_columns(finished: Path) -> None:
    """Give the data columns, as `evaluate` would."""
    rewrite(finished, lambda a: a.update({f"column_{name}": values for name, values in COLUMNS.items()}))
    with np.load(finished / "reports/predictions.npz") as file:
        target, predicted = file["target"], {r: file[f"{r}_predicted"] for r in ("reference", "candidate")}
    for role, labels in predicted.items():
        slices = {}
        for column, values in COLUMNS.items():
            for value in set(values):
                inside = values == value
                figure = {"value": float((labels == target)[inside].mean()), "n": int(inside.sum())}
                slices[f"{column}={value}"] = figure
        evaluation(lambda v, r=role, s=slices: v["models"][r].update(slices={"accuracy": s, "f1": s, "recall": s}))(
            finished
        )


@pytest.mark.parametrize(("metric", "part", "expected"), BY_COLUMN)
def test_slices_by_a_column_of_the_data_are_judged_by_pairs(
    finished: Path, metric: str, part: str, expected: dict
) -> None:
    with_columns(finished)
    rule = {"metric": metric, "slice": part, "max_drop": 0.05}
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": rule}))
    checks = gate.run(finished).checks
    assert {one.slice: one.status for one in checks} == expected, checks
    assert all(one.n in (2000, 1333) for one in checks)


def test_a_slice_whose_column_is_not_in_the_outcomes_never_passes(finished: Path) -> None:
    with_columns(finished)
    rewrite(finished, lambda a: a.pop("column_half"))
    edit(
        finished / "params.yaml",
        lambda v: v["gate"].update(rules={"one": {"metric": "accuracy", "slice": "half", "max_drop": 0.05}}),
    )
    assert gate.run(finished).exit_code == 4


def test_a_recorded_baseline_that_is_lost_blocks(finished: Path) -> None:
    rule = {"metric": "accuracy", "max_drop": 0.05, "against": "baseline"}
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": rule}))
    evaluation(lambda v: v["absent"].update(baseline="data_unreachable: the model of 2f90ab3 is in no cache"))(finished)
    verdict = gate.run(finished)
    assert (verdict.exit_code, verdict.checks[0].reason) == (4, "data_unreachable")


@pytest.mark.parametrize("limit", [{"metric": "agreement", "min": 0.9}, {"metric": "flips", "max": 0.01}])
def test_a_lost_baseline_of_agreement_is_named_so_that_it_can_be_accepted(finished: Path, limit: dict) -> None:
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": limit | {"against": "baseline"}}))
    for record in (evaluation, benchmark):
        record(lambda v: v["absent"].update(baseline="data_unreachable: the model of 2f90ab3 is in no cache"))(finished)
    (one,) = gate.run(finished).checks
    assert (one.reason, one.against) == ("data_unreachable", "baseline")
    assert is_lost(one)


def test_a_slice_that_every_model_lacks_and_the_examples_have_is_missed(finished: Path) -> None:
    evaluation(lambda v: [model["slices"]["recall"].pop("class=1") for model in v["models"].values()])(finished)
    missed = next(one for one in gate.run(finished).checks if one.slice == "class=1")
    assert (missed.status, missed.reason) == ("error", "missing_slice")


def test_a_class_without_examples_is_too_few_and_not_a_broken_model(finished: Path) -> None:
    nobody = {"value": None, "n": 0, "reason": "no test example of class 9"}
    evaluation(lambda v: [m["slices"]["recall"].update({"class=9": nobody}) for m in v["models"].values()])(finished)
    empty = next(one for one in gate.run(finished).checks if one.slice == "class=9")
    assert (empty.status, empty.reason) == ("error", "too_few_examples")
    assert "no test example of class 9" in empty.message


def test_a_small_slice_of_a_composite_is_refused_with_what_mends_it(finished: Path) -> None:
    """Twelve examples of a share may be judged; a bootstrap of them passes what it should not."""
    few = np.where(np.arange(4000) < 12, "few", "many")
    rewrite(finished, lambda a: a.update(column_size=few))
    right = {"value": 1.0, "n": 12}
    rewrite(
        finished,
        lambda a: a.update(
            {
                f"{r}_predicted": np.where(few == "few", a["target"], a[f"{r}_predicted"])
                for r in ("reference", "candidate")
            }
        ),
    )
    evaluation(
        lambda v: [
            m["slices"].update(f1={"size=few": right}, accuracy={"size=few": right}) for m in v["models"].values()
        ]
    )(finished)
    rules = {m: {"metric": m, "slice": "size=few", "max_drop": 0.5} for m in ("accuracy", "f1")}
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules=rules))
    share, composite = gate.run(finished).checks
    assert share.status == "pass"
    assert (composite.status, composite.reason) == ("error", "too_few_examples")
    assert "20 examples or more, got 12" in composite.message
    assert "larger slices" in composite.mending
    assert "min_n" not in composite.mending


FALLING_BACK = {"metric": "latency_ms", "max_increase": "5%", "against": "baseline", "fallback": "reference"}
LOST = (
    "no_baseline: a baseline of 2f90ab3 was recorded here before, and the history is gone",
    "not_comparable: the baseline, of 2f90ab3, is gone",
    "data_unreachable: the history at origin cannot be read",
)


@pytest.mark.parametrize("limit", [{"metric": "agreement", "min": 0.9}, {"metric": "flips", "max": 0.01}])
def test_a_limit_on_agreement_falls_back_on_the_reference_too(finished: Path, limit: dict) -> None:
    """It compares two models as a change does; without the fallback nothing would hold it in the first runs."""
    pair = {"agreement": {"value": 0.895, "n": 4000}, "flips": {"value": 0.005, "n": 4000}}
    with np.load(finished / "reports/predictions.npz") as file:
        one, other, target = (file[name] for name in ("candidate_predicted", "reference_predicted", "target"))
    pair["agreement"]["value"] = float((one == other).mean())
    pair["flips"]["value"] = float(((one == target) != (other == target)).mean())
    evaluation(lambda v: v["pairs"].update(reference=pair))(finished)
    rule = limit | {"against": "baseline", "fallback": "reference"}
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": rule}))
    one = gate.run(finished).checks[0]
    assert (one.status, one.against) == ("pass", "reference"), one


@pytest.mark.parametrize("why", LOST)
def test_a_rule_falls_back_on_the_reference_only_where_nothing_was_ever_recorded(finished: Path, why: str) -> None:
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": FALLING_BACK}))
    assert gate.run(finished).checks[0].against == "reference"
    for record in (evaluation, benchmark):
        record(lambda v: v["absent"].update(baseline=why))(finished)
    verdict = gate.run(finished)
    assert (verdict.exit_code, verdict.checks[0].reason) == (4, why.partition(":")[0])


UNREAD = [  # gate.policies, whether the baseline's limits that cannot be read block
    ({}, False),
    ({"self_loosening": "block"}, True),
    ({"history": "required"}, True),
]


@pytest.mark.parametrize(("policies", "blocks"), UNREAD)
def test_limits_of_a_lost_baseline_are_missed_although_no_rule_is_held_against_it(
    finished: Path, policies: dict, blocks: bool
) -> None:
    edit(finished / "params.yaml", lambda values: values["gate"].update(policies=policies))
    for record in (evaluation, benchmark):
        record(lambda v: v["absent"].update(baseline="no_baseline: this clone is shallow: git fetch --unshallow"))(
            finished
        )
    verdict = gate.run(finished)
    assert verdict.exit_code == (4 if blocks else 0)
    assert check.check(finished, "release").exit_code == verdict.exit_code
    missed = next(one for one in verdict.checks if one.rule == "limits")
    assert (missed.status, missed.reason) == ("error", "no_baseline")
    assert wording.step_for(missed).endswith(": git fetch --unshallow")


LOST_RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {  # what is done -> the reason
    "a record deleted": (lambda suite: (suite / "reports/evaluation.json").unlink(), "missing_metric"),
    "a model changed": (lambda suite: (suite / "models/candidate/model.onnx").write_bytes(b"other"), "stale"),
    "a digest of others": (
        lambda suite: edit(suite / "models/candidate/artifact.json", lambda v: v.update(digest="0" * 64)),
        "stale",
    ),
    "a damaged record that speaks of files": (
        lambda suite: edit(
            suite / "models/candidate/artifact.json", lambda v: v.update(shipped=["expected the files"])
        ),
        "missing_metric",
    ),
}


@pytest.mark.parametrize("name", LOST_RECORDS)
def test_nobody_is_advised_to_take_a_rule_out_because_a_file_is_lost(finished: Path, name: str) -> None:
    change, reason = LOST_RECORDS[name]
    change(finished)
    lost = [one for one in gate.run(finished).checks if one.rule in ("accuracy", "f1", "classes") or "rec" in one.rule]
    assert {one.reason for one in lost} == {reason}
    for one in lost:
        assert "run" in wording.step_for(one)
        assert "take the rule out" not in wording.step_for(one)


UNREADABLE = ({"rules": {}, "a_new_key": 1}, {"rules": {"one": {"metric": "accuracy"}}})


@pytest.mark.parametrize("rules", UNREADABLE)
@pytest.mark.parametrize("action", ["block", "warn"])
def test_limits_of_the_baseline_that_cannot_be_read_are_no_proof_that_none_was_loosened(
    finished: Path, action: str, rules: dict
) -> None:
    edit(finished / "params.yaml", lambda values: values["gate"].update(policies={"self_loosening": action}))
    History(baseline_commit="b" * 40, baseline_gate=rules).write(finished / gate.HISTORY)
    verdict = gate.run(finished)
    assert verdict.exit_code == (4 if action == "block" else 0)
    unseen = next(one for one in verdict.checks if one.rule == "limits")
    assert (unseen.status, unseen.reason) == ("error", "not_comparable")
    assert "bbbbbbbbbb" in unseen.message
    assert check.check(finished, "pull_request").exit_code == verdict.exit_code


def test_a_lost_baseline_is_told_once(finished: Path) -> None:
    rule = {"metric": "accuracy", "max_drop": 0.05, "against": "baseline"}
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": rule}))
    evaluation(lambda v: v["absent"].update(baseline="not_comparable: gone: compression-gate run --rebuild-baseline"))(
        finished
    )
    (one,) = gate.run(finished).checks
    assert wording.step_for(one).endswith("gone: compression-gate run --rebuild-baseline")


def test_peak_memory_warns_unless_the_level_is_written(finished: Path) -> None:
    rule = {"metric": "peak_memory_bytes", "max": 10}
    both = {"unsaid": rule, "said": rule | {"level": "block"}}
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules=both))
    figure = {"value": 100.0, "unit": "bytes"}
    benchmark(lambda v: v["models"]["candidate"]["figures"].update(peak_memory_bytes=figure))(finished)
    assert {one.rule: one.level for one in gate.run(finished).checks} == {"unsaid": "warn", "said": "block"}


@pytest.mark.parametrize("change", [lambda v: v["checks"].pop(0), lambda v: v["checks"].clear()])
def test_a_verdict_without_a_check_of_every_rule_is_refused(finished: Path, change: Callable[[dict], object]) -> None:
    gate.run(finished)
    edit(finished / "reports/verdict.json", change)
    assert check.check(finished, "pull_request").exit_code == 4


def test_a_crash_while_judging_does_not_hide_that_files_changed(finished: Path) -> None:
    verdict = gate.run(finished)
    told = verdict.checks[0].model_copy(update={"rule": "x", "level": "info", "status": "error", "reason": "crashed"})
    verdict.model_copy(update={"checks": (*verdict.checks, told)}).write(finished / "reports/verdict.json")
    (finished / "models/candidate/model.onnx").write_bytes(b"another model")
    assert check.check(finished, "pull_request").exit_code == 4


def test_check_ends_with_the_code_of_the_stage_that_failed(finished: Path) -> None:
    gate.crashed_verdict(
        finished, read_params(finished), {"stage": "train", "exit_code": 2, "message": "task.model: no such module"}
    )
    assert check.check(finished, "pull_request").exit_code == 2


AFTER = [
    "models/candidate/artifact.json",
    "params.yaml",
    "models/candidate/model.onnx",
    "models/reference/model.safetensors",
    "reports/predictions.npz",
    "reports/benchmark.json",
    "reports/data.json",
    "reports/timings.npz",
]


@pytest.mark.parametrize("name", AFTER)
def test_a_verdict_does_not_outlive_what_it_speaks_of(finished: Path, name: str) -> None:
    gate.run(finished)
    path = finished / name
    path.write_text(path.read_text().replace("2000", "2001")) if name == "params.yaml" else path.write_bytes(
        path.read_bytes() + b" "
    )
    outcome = check.check(finished, "pull_request")
    assert outcome.exit_code == 4
    assert any(Path(name).name in text or "artifact.json" in text for text in outcome.problems), outcome.problems


EDITS: dict[str, Callable[[dict], object]] = {
    "bindings emptied": lambda v: v.update(bindings={}),
    "one binding removed": lambda v: v["bindings"].pop("models/candidate"),
    "status": lambda v: v.update(status="pass", exit_code=0),
    "failing check removed": lambda v: v.update(
        checks=[one for one in v["checks"] if one["status"] == "pass"], status="pass", exit_code=0
    ),
    "every check removed": lambda v: v.update(checks=[], status="pass", exit_code=0),
    "crash of level info": lambda v: v.update(
        checks=[{"rule": "r", "metric": "m", "status": "error", "reason": "crashed", "level": "info"}],
        status="pass",
        exit_code=0,
        bindings={},
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_verdict_is_not_believed(finished: Path, name: str) -> None:
    edit(finished / "params.yaml", lambda values: values["gate"]["rules"]["rate"].update(min=50))
    assert gate.run(finished).exit_code == 1
    edit(finished / "reports/verdict.json", EDITS[name])
    assert check.check(finished, "pull_request").exit_code == 4


def test_a_crash_of_an_info_rule_does_not_hide_stale_files(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compression_gate.gate import judge

    monkeypatch.setitem(judge.ESTIMATORS, "paired_proportion", lambda *_: 1 / 0)
    rule = {"metric": "accuracy", "max_drop": 0.01, "level": "info"}
    edit(finished / "params.yaml", lambda values: values["gate"].update(rules={"one": rule}))
    assert gate.run(finished).exit_code == 0
    (finished / "models/candidate/model.onnx").write_bytes(b"other")
    assert check.check(finished, "pull_request").exit_code == 4


def baseline(finished: Path) -> Path:
    """Record the candidate as the baseline, measured by both stages."""
    folder = finished / ".compression_gate/references/baseline"
    shutil.copytree(finished / "models/candidate", folder)
    for record in (evaluation, benchmark):
        record(lambda v: v["models"].update(baseline=v["models"]["candidate"]))(finished)
    benchmark(lambda v: v["pairs"].update(baseline=v["pairs"]["reference"]))(finished)
    rewrite(finished, lambda a: a.update(baseline_predicted=a["candidate_predicted"]))
    History(baseline_commit="b" * 40).write(finished / gate.HISTORY)
    return folder


AGAINST = [
    ({"metric": "accuracy", "max_drop": 0.01}, "pass"),
    ({"metric": "size_bytes", "max_increase": 0}, "pass"),
    ({"metric": "compression_ratio", "max_drop": 0}, "pass"),
    ({"metric": "latency_ms", "max_increase": "5%"}, "pass"),
    ({"metric": "f1", "max_drop": 0.01}, "pass"),
]


@pytest.mark.parametrize(("rule", "expected"), AGAINST)
def test_a_rule_is_held_against_a_baseline_that_is_there(finished: Path, rule: dict, expected: str) -> None:
    baseline(finished)
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": rule | {"against": "baseline"}}))
    one = gate.run(finished).checks[0]
    assert (one.status, one.against) == (expected, "baseline"), one


BROKEN_BASELINES: dict[str, Callable[[Path], object]] = {
    "its record gone": lambda folder: (folder / "artifact.json").unlink(),
    "a file gone": lambda folder: (folder / "model.onnx").unlink(),
    "a file changed": lambda folder: (folder / "model.onnx").write_bytes(b"other"),
    "everything gone": shutil.rmtree,
}


@pytest.mark.parametrize("name", BROKEN_BASELINES)
def test_a_broken_baseline_is_an_error_and_a_verdict_does_not_outlive_it(finished: Path, name: str) -> None:
    folder = baseline(finished)
    rule = {"metric": "accuracy", "max_drop": 0.01, "against": "baseline"}
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": rule}))
    assert gate.run(finished).exit_code == 0
    BROKEN_BASELINES[name](folder)
    assert check.check(finished, "pull_request").exit_code == 4
    if folder.exists():
        assert gate.run(finished).exit_code == 4


def test_a_baseline_that_could_not_be_measured_says_why(finished: Path) -> None:
    baseline(finished)
    why = {"baseline": "recorded for another runtime"}
    evaluation(lambda v: (v["models"].pop("baseline"), v.update(absent=why)))(finished)
    rule = {"metric": "accuracy", "max_drop": 0.01, "against": "baseline"}
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules={"one": rule}))
    one = gate.run(finished).checks[0]
    assert (one.status, one.reason) == ("error", "not_comparable")
    assert "another runtime" in one.message


@pytest.mark.parametrize("code", [2, 4])
def test_check_ends_as_the_run_that_crashed(finished: Path, code: int) -> None:
    params = read_params(finished)
    gate.crashed_verdict(finished, params, {"stage": "train", "exit_code": code, "message": "the shop is closed"})
    outcome = check.check(finished, "release")
    assert (outcome.status, outcome.exit_code, outcome.problems) == ("error", code, ())


def test_a_run_that_could_not_get_at_the_data_says_so_and_who_may(finished: Path) -> None:
    failure = {"stage": "prepare", "exit_code": 4, "message": "403", "reason": "data_unreachable"}
    gate.crashed_verdict(finished, read_params(finished), failure)
    (one,) = check.check(finished, "pull_request").verdict.checks
    assert (one.status, one.reason) == ("error", "data_unreachable")
    assert "let a maintainer run it" in one.mending


def test_the_report_of_a_crash_shows_no_figures_of_an_older_run(finished: Path) -> None:
    params = read_params(finished)
    gate.crashed_verdict(finished, params, {"stage": "train", "exit_code": 4, "message": "the shop is closed"})
    report.run(finished)
    text = (finished / "reports/report.md").read_text(encoding="utf-8")
    assert "the shop is closed" in text
    assert "Models" not in text


@pytest.mark.parametrize("text", ["", "{", '{"schema": 99}', "null"])
def test_a_verdict_that_cannot_be_read_ends_in_four(finished: Path, text: str) -> None:
    (finished / "reports/verdict.json").write_text(text)
    assert check.check(finished, "pull_request").exit_code == 4


def test_judging_twice_is_equal(finished: Path) -> None:
    assert gate.run(finished) == gate.run(finished)


def test_the_order_of_rules_does_not_matter(finished: Path) -> None:
    before = {(one.rule, one.slice): one for one in gate.run(finished).checks}
    edit(finished / "params.yaml", lambda v: v["gate"].update(rules=dict(reversed(v["gate"]["rules"].items()))))
    text = (finished / "params.yaml").read_text()
    (finished / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load(text), sort_keys=True))
    assert {(one.rule, one.slice): one for one in gate.run(finished).checks} == before


ORDER = {"pass": 0, "undecided": 1, "fail": 2}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["max", "min", "max_drop", "max_increase"]),
    observed=st.floats(-5, 5),
    width=st.floats(0, 2),
    limit=st.floats(0, 3),
    tighter=st.floats(0, 1),
)
def test_tightening_a_limit_never_turns_fail_into_pass(
    form: str, observed: float, width: float, limit: float, tighter: float
) -> None:
    direction = 1 if form == "min" else -1
    results = []
    for value in (limit, limit + direction * min(tighter, limit if direction < 0 else tighter)):
        bound = bound_of(Rule.model_validate({"metric": "mae", form: value}), None)
        assert bound is not None
        results.append(judged(bound, (observed - width, observed + width)))
    assert ORDER[results[1]] >= ORDER[results[0]]


@given(
    form=st.sampled_from(["max", "min", "max_drop", "max_increase"]),
    end=st.sampled_from([math.nan, math.inf, -math.inf]),
)
def test_a_value_that_is_not_finite_never_passes(form: str, end: float) -> None:
    bound = bound_of(Rule.model_validate({"metric": "mae", form: 1.0}), None)
    assert bound is not None
    for interval in ((end, end), (end, 0.0), (0.0, end)):
        assert judged(bound, interval) != "pass"


def test_the_verdict_names_the_commit_it_was_reached_at(finished: Path) -> None:
    """Informative only: what binds it is content, so a later commit does not make it stale."""
    git = ["git", "-C", str(finished), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    verdict = gate.run(finished)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert verdict.candidate.commit == verdict.reference.commit == head
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "two"], check=True, capture_output=True)
    assert check.check(finished, "pull_request").exit_code == 0
