"""The documents keep up with the code: examples load, commands are named, tables say what code and figures say."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer
import yaml

from compression_gate import registry
from compression_gate.cli import app
from compression_gate.gate.evidence import MENDING
from compression_gate.gate.policy import POLICIES
from compression_gate.gate.test_reuse import ANSWERS, PREMISES
from compression_gate.methods import METHODS
from compression_gate.records.metric_table import METRICS
from compression_gate.records.params import read_params
from compression_gate.records.perturbation_table import PERTURBATIONS
from compression_gate.records.rules import Rule
from compression_gate.records.search_params import FitnessParams, Objective, ProxyParams, SearchBudget, SearchParams
from compression_gate.records.verdict import CheckStatus, Reason
from compression_gate.records.waivers import Waiver, read_waivers
from compression_gate.search import SEARCHERS
from compression_gate.search.executors import EXECUTORS

ROOT = Path(__file__).parents[1]
if not (ROOT / "README.md").is_file():
    pytest.skip("the documents are in the repository only", allow_module_level=True)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GATE = (ROOT / "docs/gate.md").read_text(encoding="utf-8")
TASK = {"model": "shop:Net", "data": "shop:load"}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Every block of a language in the documents: where it begins, and its text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            yield f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", match[1]


PARAMS = [
    pytest.param(text, id=where)
    for where, text in blocks("yaml")
    if re.search(r"^(gate|evaluate):", text, flags=re.MULTILINE)
]
WAIVERS = [pytest.param(text, id=where) for where, text in blocks("yaml") if text.startswith("- rule:")]


def test_there_are_blocks_to_look_at() -> None:
    """Seven in docs/gate.md, one in README.md: a pattern that no longer finds them proves nothing."""
    assert len(PARAMS) >= 8
    assert len(WAIVERS) >= 1


@pytest.mark.parametrize("text", PARAMS)
def test_params_in_the_documents_load(tmp_path: Path, text: str) -> None:
    values = {"task": TASK, **yaml.safe_load(text)}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    params = read_params(tmp_path)
    assert params.gate.rules or params.gate.policies


@pytest.mark.parametrize("text", WAIVERS)
def test_waivers_in_the_documents_load(tmp_path: Path, text: str) -> None:
    rules = {"accuracy": {"metric": "accuracy", "max_drop": 0.01}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"task": TASK, "gate": {"rules": rules}}))
    (tmp_path / "waivers.yaml").write_text(text)
    assert read_waivers(tmp_path, read_params(tmp_path), today=date(2026, 11, 22))


COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named(name: str) -> None:
    named = re.compile(rf"`(compression-gate )?{name}\b|^(\$ )?compression-gate {name}\b", flags=re.MULTILINE)
    assert any(named.search(page.read_text(encoding="utf-8")) for page in PAGES)


def rows() -> list[list[str]]:
    """The cells of every row of every table of docs/gate.md."""
    lines = [line for line in GATE.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def row_of(head: str, cells: int) -> list[str]:
    """The row whose first cell is this, of a table with so many columns."""
    found = [row for row in rows() if row[0] == head and len(row) == cells]
    assert len(found) == 1, f"{head}: expected one row of {cells} cells in docs/gate.md, got {found}"
    return found[0]


@pytest.mark.parametrize("reason", get_args(Reason))
def test_every_reason_is_told_with_its_mending(reason: str) -> None:
    assert row_of(f"`{reason}`", 3)[2] == MENDING[reason]


@pytest.mark.parametrize("status", get_args(CheckStatus))
def test_every_cell_of_the_policy_table_is_told(status: str) -> None:
    assert row_of(f"`{status}`", 2)[1]
    told = row_of(f"`{status}`", 3)[1:]
    for policy, cell in zip(("pull_request", "release"), told, strict=True):
        levels = POLICIES[policy].get(status, ())
        words = f"at level{'s' if len(levels) > 1 else ''} {' and '.join(levels)}"
        assert cell.startswith(f"blocks {words}" if levels else "never blocks"), (policy, cell)
    assert "release: true" not in told[1] or status == "waived"


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_told_with_its_kind(metric: str) -> None:
    kind = METRICS[metric].kind.replace("_", " ")
    assert f"`{metric}`" in row_of(kind, 3)[1]


@pytest.mark.parametrize("key", Rule.model_fields)
def test_every_key_of_a_rule_is_told(key: str) -> None:
    assert f"`{key}`" in GATE


@pytest.mark.parametrize("key", Waiver.model_fields)
def test_every_key_of_a_waiver_is_shown(key: str) -> None:
    assert re.search(rf"^[- ] {key}: ", GATE, flags=re.MULTILINE)


@pytest.mark.parametrize("mode", PREMISES)
def test_every_mode_of_test_reuse_is_told_with_its_premise(mode: str | None) -> None:
    assert row_of(f"`{mode or 'null'}`", 3)[2] == PREMISES[mode]
    assert f"{ANSWERS} to the power of uses" in GATE


SEARCH = (ROOT / "docs/search.md").read_text(encoding="utf-8")
SETTINGS = [
    *(name for section in (SearchParams, SearchBudget, ProxyParams, FitnessParams) for name in section.model_fields),
    *(*get_args(Objective), *SEARCHERS, *EXECUTORS),
]


QUOTED = " ".join(re.findall(r"```.*?```|`[^`]+`", SEARCH, flags=re.DOTALL))


@pytest.mark.parametrize("word", dict.fromkeys(SETTINGS))
def test_every_setting_of_a_search_is_told(word: str) -> None:
    assert re.search(rf"(?<![\w-]){word}(?![\w-])", QUOTED)


def test_a_perturbation_of_the_examples_exists() -> None:
    named = set(re.findall(r"perturbation=(\w+)", GATE))
    assert named
    assert named <= PERTURBATIONS.keys()


METHOD_SECTIONS = dict(
    re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", (ROOT / "docs/methods.md").read_text(encoding="utf-8"), re.M | re.S)
)


@pytest.mark.parametrize("name", METHOD_SECTIONS)
def test_every_option_of_a_method_is_told(name: str) -> None:
    options = dataclasses.fields(registry.load("methods", name, METHODS))
    assert [option.name for option in options if f"`{option.name}`" not in METHOD_SECTIONS[name]] == []


def script(name: str) -> ModuleType:
    """A benchmark's module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_error_rates_are_those_on_file() -> None:
    module = script("gate_table")
    stored = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    for line in module.markdown(stored["rows"], stored["families"], 0.03):
        assert line in GATE


def test_the_table_of_quantizations_is_the_one_on_file() -> None:
    module = script("quantization_table")
    document = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    for line in module.markdown(module.rows()).splitlines():
        assert line in document


def test_the_table_of_worn_out_test_sets_is_the_one_on_file() -> None:
    module = script("test_reuse")
    for line in module.markdown(json.loads(module.RESULTS.read_text(encoding="utf-8"))["rows"]):
        assert line in GATE


def test_a_row_of_error_rates_comes_out_as_it_is_on_file() -> None:
    """500 examples at 3 %: what the page says of a point threshold."""
    module = script("gate_table")
    stored = json.loads(module.RESULTS.read_text(encoding="utf-8"))["rows"]
    fresh = list(module.rows_of(500, 0.03))
    kept = [row for row in stored if (row["n"], row["discordance"]) == (500, 0.03)]
    for new, old in zip(fresh, kept, strict=True):
        assert {key: new[key] for key in ("habit", "true_drop")} == {key: old[key] for key in ("habit", "true_drop")}
        assert (new["pass"], new["fail"]) == pytest.approx((old["pass"], old["fail"]), abs=1e-6)
    wrong = next(row["pass"] for row in fresh if (row["habit"], row["true_drop"]) == ("point", 0.015))
    assert f"in {100 * wrong:.0f} % of runs" in " ".join(GATE.split())


def test_the_tables_of_low_rank_and_sharing_are_those_on_file() -> None:
    module = script("low_rank_table")
    rows = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    for table in {row["table"] for row in rows} - {"reference"}:
        for line in module.markdown(rows, table):
            assert line in page


def test_the_table_of_costs_is_the_one_on_file() -> None:
    stored = json.loads((ROOT / "benchmarks/results/gate_scale.json").read_text(encoding="utf-8"))
    for row in stored["rows"]:
        cells = f"{row['examples']:,} | {row['checks']:,} | {row['seconds']:.2f} | {row['peak_mb']:.0f} MB"
        assert cells in GATE
    assert f"load average {stored['load_average']:.1f}" in " ".join(GATE.split())


def test_the_table_of_distillation_is_the_one_on_file() -> None:
    module = script("distillation_table")
    table = module.markdown(json.loads(module.RESULTS.read_text(encoding="utf-8")))
    assert table in (ROOT / "docs/methods.md").read_text(encoding="utf-8")


def test_the_tables_of_the_coded_file_are_those_on_file() -> None:
    module = script("coded_file")
    stored = json.loads(module.RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs/coded.md").read_text(encoding="utf-8")
    for table in module.markdown(stored).split("\n\n"):
        assert table in page


def test_the_tables_of_records_are_those_on_file() -> None:
    page = (ROOT / "docs/records.md").read_text(encoding="utf-8")
    for table in script("records/tables").tables():
        assert "\n".join(table) in page
    assert "\n".join(script("records/tables").summary()) in (ROOT / "README.md").read_text(encoding="utf-8")


def stored(module: ModuleType) -> Any:
    """What a benchmark has on file."""
    return json.loads(module.RESULTS.read_text(encoding="utf-8"))


def test_the_tables_of_searches_are_those_on_file() -> None:
    replay, live, synthetic = script("search_replay"), script("search_live"), script("search_synthetic")
    tables = replay.tables(stored(replay))
    shown = [tables["recorded", 50], tables["recorded", 150], tables["predicted", 150], *live.markdown(stored(live))]
    lines = "\n".join(synthetic.markdown(stored(synthetic))).split("\n\n")
    shown += [table for title, table in itertools.pairwise(lines) if title.endswith(" 300 trials")]
    shown.append(script("search_lenet").markdown(stored(script("search_lenet"))))
    assert len(shown) == 8
    for table in shown:
        assert table in SEARCH


def test_the_tables_of_the_scaling_of_searches_are_those_on_file() -> None:
    page = (ROOT / "docs/search_scaling.md").read_text(encoding="utf-8")
    for name in ("search_driver", "search_cluster"):
        module = script(name)
        for table in module.markdown(stored(module)):
            assert table in page
    staleness = script("search_staleness")
    assert staleness.markdown(stored(staleness)["rows"]) in page


def test_the_tables_of_budgets_are_those_on_file() -> None:
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    budgets = script("budget_table")
    for line in budgets.table(stored(budgets)).splitlines()[2:]:
        figures = [cell for cell in line.split("|")[2:-1] if cell.strip()]
        assert any(all(figure in row for figure in figures) for row in page.splitlines() if row.startswith("| ")), line
