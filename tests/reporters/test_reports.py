"""Reports rendered from a verdict and its records: the words, the order, and nothing a contributor could smuggle in."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from compression_gate.cli import app
from compression_gate.records.coded import Inspection
from compression_gate.records.power import PowerReport
from compression_gate.records.verdict import Check, Subject, TradeOff
from compression_gate.reporters import coded, html, markdown, record_tables, terminal, wording
from compression_gate.stages import gate, report
from compression_gate.stages.report import read_findings

GOLDEN = Path(__file__).parent / "golden"


def with_rules(suite: Path, **rules: dict) -> Path:
    """Replace the rules and judge again."""
    values = yaml.safe_load((suite / "params.yaml").read_text())
    values["gate"]["rules"] = rules
    (suite / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    gate.run(suite)
    return suite


FAILING = {
    "accuracy": {"metric": "accuracy", "max_drop": 0.002},
    "floor": {"metric": "accuracy", "min": 0.895},
    "rate": {"metric": "compression_ratio", "min": 4},
    "drift": {"metric": "accuracy", "max_drop": 0.01, "against": "release"},
}


@pytest.mark.parametrize("name", ["pass", "fail"])
def test_report_is_the_same_byte_for_byte(finished: Path, name: str) -> None:
    """`UPDATE_GOLDEN=1 pytest` writes the files anew; look at the diff before committing it."""
    if name == "fail":
        with_rules(finished, **FAILING)
    else:
        gate.run(finished)
    report.run(finished)
    text = (finished / "reports/report.md").read_text(encoding="utf-8")
    golden = GOLDEN / f"{name}.md"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_a_waiver_that_is_not_for_releases_is_the_reason_that_a_release_fails(finished: Path) -> None:
    waiver = {"rule": "size", "ceiling": 1100, "reason": "soon", "owner": "me", "expires": "2999-01-01"}
    (finished / "waivers.yaml").write_text(yaml.safe_dump([waiver]))
    with_rules(finished, size={"metric": "size_bytes", "max": 900}, floor={"metric": "accuracy", "min": 0.8})
    said = "size_bytes is 1,000 bytes; ≤ 900 is allowed; its waiver does not hold under the policy release"
    step = "Lower size_bytes by 100 bytes, or let its waiver hold here too: release: true in waivers.yaml."

    mild = read_findings(finished)
    assert wording.next_steps(mild.verdict) == []

    gate.run(finished, "release")
    report.run(finished)
    strict = read_findings(finished)
    assert wording.headline(strict, "fail") == f"Fail. {said}"
    assert [text for _, text in wording.next_steps(strict.verdict)] == [step]
    assert said in (finished / "reports/report.html").read_text(encoding="utf-8")
    assert step in (finished / "reports/junit.xml").read_text(encoding="utf-8")


def broken(rule: str, metric: str, allowed: float | None, headroom: float | None, **more: object) -> Check:
    values = {"status": "fail", "limit": "max", "allowed": allowed, "headroom": headroom, "observed": 1.0}
    return Check.model_validate({"rule": rule, "metric": metric, **values, **more})


def test_the_check_that_breaks_most_of_its_limit_explains_a_verdict_whatever_its_unit(finished: Path) -> None:
    gate.run(finished)
    checks = [
        broken("bytes", "size_bytes", 1000, -20),
        broken("latency", "latency_ms", 5.0, -0.5),
        broken("accuracy", "accuracy", -0.002, -0.0039),
        broken("limits", "self_loosening", None, None),
        broken("hint", "accuracy", 0.001, -1.0, level="warn"),
    ]
    verdict = read_findings(finished).verdict
    for shown in (checks, checks[::-1]):
        found = wording.deciding(verdict.model_copy(update={"checks": tuple(shown)}), "fail")
        assert found is not None
        assert found.rule == "accuracy"


def test_of_passing_slices_the_terminal_keeps_the_one_nearest_to_its_limit(finished: Path) -> None:
    """By shares of it: a relative limit allows each slice another change; what was not measured is not the nearest."""
    gate.run(finished)
    passing = {"status": "pass", "metric": "f1", "allowed": -0.01}
    checks = (
        Check(rule="r", slice="unmeasured", **passing),
        Check(rule="r", slice="near", headroom=0.004, **{**passing, "allowed": -0.04}),
        Check(rule="r", slice="far", headroom=0.003, **passing),
    )
    verdict = read_findings(finished).verdict.model_copy(update={"checks": checks})
    assert [check.slice for check in terminal.shown_checks(verdict)] == ["near"]
    assert ["worst at near" in text for text in wording.worst_slices(verdict)] == [True]


def test_the_failing_limit_and_by_how_much_come_first(finished: Path) -> None:
    with_rules(finished, rate={"metric": "compression_ratio", "min": 50})
    report.run(finished)
    first, *_ = (finished / "reports/report.md").read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ❌ Fail.")
    assert "10.0" in first
    assert "50" in first


def test_every_batch_size_has_rows_of_its_own_where_there_are_several(finished: Path) -> None:
    gate.run(finished)
    path = finished / "reports/benchmark.json"
    found = json.loads(path.read_text())
    found["batch_sizes"] = [1, 16]
    for model in found["models"].values():
        latency = model["figures"]["latency_ms"]
        rate = {**latency, "value": 4000.0, "low": 3900.0, "high": 4100.0, "unit": "per_s"}
        model["batches"] = {"1": {"latency_ms": latency}, "16": {"latency_ms": latency, "throughput_per_s": rate}}
    path.write_text(json.dumps(found))
    _, rows = record_tables.model_table(read_findings(finished))
    shown = {row[0]: row[1:] for row in rows}
    assert shown["throughput_per_s at batch 16"] == ["4,000", "4,000"]
    assert shown["throughput_per_s at batch 1"] == ["–", "–"]
    assert shown["latency_ms at batch 16"] == shown["latency_ms"]


def test_qualities_are_shown_of_every_model_that_has_them_without_a_benchmark_too(finished: Path) -> None:
    gate.run(finished)
    _, rows = record_tables.model_table(read_findings(finished))
    (accuracy,) = (row for row in rows if row[0] == "accuracy, %")
    (finished / "reports/benchmark.json").unlink()
    head, rows = record_tables.model_table(read_findings(finished))
    assert head == ["", "reference", "candidate"]
    assert accuracy in rows
    assert {len(row) for row in rows} == {len(head)}

    path = finished / "reports/evaluation.json"
    found = json.loads(path.read_text())
    del found["models"]["reference"]["metrics"]["accuracy"]
    path.write_text(json.dumps(found))
    _, rows = record_tables.model_table(read_findings(finished))
    assert ["accuracy, %", "–", accuracy[2]] in rows


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_fits_its_width(finished: Path, width: int) -> None:
    with_rules(finished, **FAILING)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal.report(read_findings(finished), "fail", 1, (), narrow=width < 112))
    lines = console.export_text().splitlines()

    assert max(map(len, lines)) <= width
    assert lines[0].startswith("✘ Fail.")
    assert lines[-1] == "exit code 1"


MARKUP = ["x[/y]", "head[a-z]+", "[red]x[/]", ":smile:"]


@pytest.mark.parametrize("text", MARKUP)
def test_what_a_contributor_names_is_no_markup_on_a_terminal(finished: Path, text: str) -> None:
    """A step, a metric and the name of a coded file: rich's own markup would drop a part of them, or raise."""
    gate.run(finished)
    path = finished / "reports/compression.json"
    record = json.loads(path.read_text())
    record["steps"][0] |= {"method": text, "quality": {text: 0.9}}
    record["reference"]["quality"] = {text: 0.9}
    path.write_text(json.dumps(record))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal.report(read_findings(finished), "pass", 0, ()))
    assert [line.count(text) for line in console.export_text().splitlines() if text in line] == [1, 1]


def test_rules_of_the_power_table_give_no_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_power(PowerReport(alpha=0.05, rules=(), unplanned={"a\x1b[31m": "b\x1b[0m"}))
    assert "\x1b" not in capsys.readouterr().out


def test_name_of_a_coded_file_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    found = Inspection.model_construct(
        file="a[/b].cgz", kind="state", profile="small", size_bytes=4, head_bytes=1, tensors=()
    )
    coded.show(found)
    assert capsys.readouterr().out.splitlines()[-1].startswith("a[/b].cgz: state")


HOSTILE = [
    "<script>alert(1)</script>",
    "@maintainer",
    "[x](http://evil)",
    "a|b\n# title",
    "`code`",
    "![i](u)",
    "http://evil.example/x",
    "www.evil.example",
    "**bold**",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_contributor_names_is_harmless(text: str) -> None:
    shown = markdown.escaped(text)
    assert "\n" not in shown
    assert "<" not in shown
    assert not re.search(r"(?<!\\)[|`*\[\]]", shown)
    assert not re.search(r"@\w|://\w|www\.\w", shown)


def test_a_long_report_leaves_out_whole_parts_and_names_them() -> None:
    parts = ["a" * 30_000, f"<details><summary>Slices</summary>{'b' * 40_000}</details>", "c" * 20]
    text = markdown.shortened(parts, "the command")
    assert len(text) <= markdown.LONGEST
    assert "Left out, since a comment may not be longer: Slices." in text
    assert "b" * 10 not in text
    assert "c" * 20 in text
    assert text.endswith("the command\n")


def test_a_verdict_of_hundreds_of_hostile_slices_stays_a_comment(finished: Path) -> None:
    gate.run(finished)
    findings = read_findings(finished)
    check = findings.verdict.checks[0]
    many = [
        check.model_copy(update={"slice": f"class={'<x' * 400}{n}", "status": status, "message": "|" * 9000})
        for n in range(400)
        for status in ("fail", "undecided", "pass")
    ]
    verdict = findings.verdict.model_copy(update={"checks": tuple(many), "warnings": ("w" * 9000,) * 300})
    text = markdown.rendered(replace(findings, verdict=verdict))
    assert len(text) <= markdown.LONGEST
    assert "more, in `reports/report.html`" in text
    assert "Again on your machine" in text
    head = next(line for line in text.splitlines() if line.startswith("| check "))
    rows = [re.sub(r"\\.", "", line) for line in text.splitlines() if line.startswith("| ")]
    assert {row.count("|") for row in rows} <= {head.count("|"), 4, 3, 10, 8}


LOGS = ["::error::x", "\n::set-output name=x::y", "##[group]x", "a\x1b[31mred", "\u202etxt"]


@pytest.mark.parametrize("text", LOGS)
def test_what_a_contributor_names_gives_no_orders_to_a_log(text: str) -> None:
    shown = wording.harmless(text)
    assert not re.search(r"(?m)^\s*(::|##\[)", shown)
    assert not set(shown) & {"\x1b", "\u202e"}


def test_the_local_command_names_commit_folder_and_policy(finished: Path) -> None:
    gate.run(finished)
    findings = read_findings(finished)
    verdict = findings.verdict.model_copy(
        update={"candidate": Subject(digest="d", commit="c" * 40), "policy": "release"}
    )
    there = replace(findings, verdict=verdict, folder="my models/one")
    assert wording.local_command(there) == (
        "git switch --detach cccccccccccc && compression-gate run -C 'my models/one' --policy release"
    )


AXES = {  # name -> metric, held against, this commit
    "accuracy": ("accuracy", 0.92, 0.915),
    "bytes": ("size_bytes", 1000, 250),
    "latency": ("latency_ms", 2.0, 2.5),
}
TRADES = [  # the outcome of each axis, what is said
    (
        {"accuracy": "worse", "bytes": "better", "latency": "same"},
        "Against the baseline this change brings 75\u00a0% fewer bytes (1,000 → 250), at the price of 0.50 points of "
        "accuracy (92.00 → 91.50); latency_ms: the same within noise. It is on the Pareto front of 2 models, with the "
        "baseline.",
    ),
    (
        {"accuracy": "same", "bytes": "better"},
        "Against the baseline this change brings 75\u00a0% fewer bytes (1,000 → 250), and is worse in nothing that was "
        "measured; accuracy: the same within noise. It is on the Pareto front of 2 models, with the baseline.",
    ),
    (
        {"accuracy": "worse", "latency": "worse"},
        "Against the baseline this change costs 0.50 points of accuracy (92.00 → 91.50) and 25\u00a0% more latency "
        "(2.00 → 2.50), and brings nothing that was measured. It is not on the Pareto front, which holds the baseline.",
    ),
    (
        {"accuracy": "same"},
        "Against the baseline this change makes no difference that shows; accuracy: the same within noise. It is on "
        "the Pareto front of 2 models, with the baseline.",
    ),
]


@pytest.mark.parametrize(("outcomes", "said"), TRADES)
def test_the_trade_off_is_told_in_a_sentence(finished: Path, outcomes: dict[str, str], said: str) -> None:
    gate.run(finished)
    axes = []
    for name, outcome in outcomes.items():
        metric, before, after = AXES[name]
        axes.append({"metric": metric, "observed": after, "compared_to": before, "outcome": outcome})
    found = {axis["outcome"] for axis in axes}
    whole = (
        "trades"
        if {"better", "worse"} <= found
        else {"better": "dominates", "worse": "dominated"}.get(next(iter(found - {"same"}), ""), "same")
    )
    points = [
        {"role": role, "figures": {}, "on_front": role == "baseline" or whole != "dominated"}
        for role in ("baseline", "candidate")
    ]
    trade_off = TradeOff.model_validate({"against": "baseline", "outcome": whole, "axes": axes, "points": points})
    verdict = read_findings(finished).verdict.model_copy(update={"trade_off": trade_off})
    assert wording.trade_off_line(verdict) == said


def test_a_model_that_lacks_a_figure_is_not_said_to_be_off_the_front() -> None:
    points = [{"role": "baseline", "figures": {}, "on_front": True}]
    found = TradeOff.model_validate({"against": "baseline", "outcome": "same", "axes": [], "points": points})
    for one in (found, found.model_copy(update={"points": ()})):
        assert wording.front_line(one) == "Whether it is on the Pareto front cannot be said: it lacks a figure."


FIGURES = [
    ("accuracy", 0.9133, "91.33"),
    ("size_bytes", 85931, "85,931"),
    ("latency_ms", 0.0335, "0.0335"),
    ("compression_ratio", 14.678, "14.7"),
    ("throughput_per_s", 8371.1, "8,371"),
    ("energy_j", 0.000477, "0.000477"),
    ("energy_j", 1.2e-10, "1.20e-10"),
    ("latency_ms", 999.4, "999"),
    ("latency_ms", 999.7, "1,000"),
    ("latency_ms", -999.5, "-1,000"),
    ("accuracy", None, "–"),
]


@pytest.mark.parametrize(("metric", "value", "shown"), FIGURES)
def test_figures_have_the_metric_s_own_form(metric: str, value: float | None, shown: str) -> None:
    assert wording.figure(metric, value) == shown


def test_a_change_of_nothing_has_no_sign() -> None:
    assert wording.signed("accuracy", -0.0) == "0.00"


INTERVALS = [  # change, interval, what is said
    (None, (1.98, 2.02), "1.98 to 2.02"),
    (-0.5, (-0.6, 0.1), "−0.600 to +0.100"),
    (None, (0.0, None), "at least 0.00"),
    (-0.5, (None, 0.1), "at most +0.100"),
    (None, (None, None), "unbounded"),
    (None, None, "exact"),
]


@pytest.mark.parametrize(("change", "interval", "said"), INTERVALS)
def test_interval_without_an_end_does_not_read_as_a_figure(change, interval, said: str) -> None:
    check = Check(rule="r", metric="speedup", status="undecided", observed=2.0, change=change, interval=interval)
    assert wording.interval_of(check) == said


def test_an_undecided_check_that_nothing_bounds_says_what_it_lacks() -> None:
    lacking = "4 processes are needed, 2 were timed: raise benchmark.budget_s"
    check = Check(rule="r", metric="speedup", status="undecided", observed=2.0, interval=(0.0, None), message=lacking)
    assert wording.step_for(check) == lacking


def test_every_status_has_a_symbol_and_a_word() -> None:
    statuses = set(Check.model_fields["status"].annotation.__args__)
    assert statuses == set(wording.SYMBOLS) == set(wording.TITLES) == set(markdown.EMOJI) == set(terminal.COLOURS)


def test_check_shows_the_policy_of_the_call_and_what_does_not_block_under_it(finished: Path) -> None:
    with_rules(finished, floor={"metric": "accuracy", "min": 0.895})
    mild, strict = (called("check", "-C", finished, "--policy", name) for name in ("pull_request", "release"))
    assert (mild.exit_code, strict.exit_code) == (0, 3)
    assert "policy pull_request" in mild.stdout
    assert "policy release" in strict.stdout
    assert "note: floor" in mild.stdout
    assert "note: floor" not in strict.stdout


def test_the_json_of_check_is_the_verdict_under_the_policy_of_the_call(finished: Path) -> None:
    with_rules(finished, floor={"metric": "accuracy", "min": 0.895})
    shown = json.loads(called("check", "-C", finished, "--policy", "release", "--json").stdout)
    assert (shown["status"], shown["exit_code"], shown["policy"]) == ("undecided", 3, "release")
    assert [text.split(":")[0] for text in shown["warnings"]] == ["no holdout was judged"]
    assert json.loads(called("check", "-C", finished, "--json").stdout)["warnings"] != []


def called(*words: object) -> Result:
    """Type a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


WITHOUT = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "dvc", "numpy", "scipy", "onnx", "onnxruntime"}:
            raise ImportError(f"{name} is made unimportable here")
sys.meta_path.insert(0, Nothing())
from compression_gate.cli import main
sys.argv = ["compression-gate", "check", "-C", sys.argv[1], *sys.argv[2:]]
main()
"""


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--json"], 0), (["--policy", "release"], 0)])
def test_check_needs_neither_torch_nor_dvc_nor_numpy(finished: Path, words: list[str], code: int) -> None:
    gate.run(finished)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(finished), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr


def test_training_inside_a_step_is_told_with_its_losses_and_remarks(finished: Path) -> None:
    gate.run(finished)
    path = finished / "reports/compression.json"
    record = json.loads(path.read_text())
    rows = [
        {"epoch": n, "loss": 1 / n, "validation_loss": 2 / n, "validation_quality": 0.9, "seconds": 1} for n in (1, 2)
    ]
    beside = [{**row, "validation_loss": None, "validation_quality": None} for row in rows]
    record["steps"][0] |= {"curves": {"student": rows, "beside": beside}, "remarks": ["asked once"]}
    path.write_text(json.dumps(record))
    name = record["steps"][0]["method"]
    assert record_tables.training_lines(read_findings(finished)) == [
        f"{name}, student: loss 1 → 0.5 in 2 epochs, validation loss 2 → 1, validation accuracy 90.00 %",
        f"{name}, beside: loss 1 → 0.5 in 2 epochs",
        f"{name}: asked once",
    ]


def test_where_integers_ended_is_told(finished: Path) -> None:
    gate.run(finished)
    path = finished / "reports/compression.json"
    line = "LSTM lstm: integers of 8 bits in the onnx file, multiplied as such in onnxruntime (DynamicQuantizeLSTM)"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"integers": [line]}))
    findings = read_findings(finished)
    for text in (markdown.rendered(findings), html.rendered(findings)):
        assert "Where integers ended" in text
        assert line in text


def test_a_choice_for_a_target_is_told_rung_by_rung(finished: Path) -> None:
    gate.run(finished)
    path = finished / "reports/compression.json"
    record = json.loads(path.read_text())
    missed = {"size_bytes": 900, "compression_ratio": 4.5, "accuracy": 0.8, "accuracy_drop": 0.1, "reason": "loses 10"}
    taken = {"size_bytes": 1000, "compression_ratio": 4.0, "accuracy": 0.9, "accuracy_drop": 0.0, "reason": None}
    record["choice"] = {
        "compression_ratio": 4,
        "max_accuracy_drop": 0.01,
        "max_epochs": 8,
        "facts": ["weights by layer type: Linear 40"],
        "reference_accuracy": 0.9,
        "n": 500,
        "tried": [
            {"name": "a", "why": "cheap", "reason": "its file would not be 4 × smaller"},
            {"name": "b", "why": "small", **missed},
            {"name": "c", "why": "large", "epochs": 2, **taken},
        ],
        "chosen": "c",
    }
    path.write_text(json.dumps(record))
    findings = read_findings(finished)
    assert record_tables.choice_lines(findings) == [
        "asked for: 4 × smaller, at most 1 points lost on 500 validation examples, at most 8 epochs trained",
        "weights by layer type: Linear 40",
        "a (cheap): its file would not be 4 × smaller",
        "b (small): 900 bytes, 4.50 × smaller, 10.00 points lost, 0 epochs: missed: loses 10",
        "c (large): 1,000 bytes, 4.00 × smaller, 0.00 points lost, 2 epochs: taken",
    ]
    assert "How the chain was chosen" in markdown.rendered(findings)


def test_the_table_that_a_budget_was_spread_by_is_shown(finished: Path) -> None:
    gate.run(finished)
    path = finished / "reports/compression.json"
    record = json.loads(path.read_text())
    row = {"layer": "fc|1", "members": ["fc|1"], "method": "magnitude_pruning", "option": "sparsity", "strength": 0.5}
    table = {"weights_digest": "w", "n": 90, "metric": "accuracy", "loss": 0.5, "quality": 0.9, "seconds": 1}
    record["steps"][0]["sensitivity"] = [
        table | {"rows": [row | {"loss_rise": 0.1, "quality_drop": 0.02, "nonzeros_saved": 7}]}
    ]
    path.write_text(json.dumps(record))
    text = markdown.rendered(read_findings(finished))
    assert "What each layer bears" in text
    assert "| fc\\|1 | −2.00 (+0.100) | 7 non-zeros |" in text
