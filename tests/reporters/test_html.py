"""`report.html`: the same bytes for the same run, everything in one file, and nothing of a contributor's runs."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from compression_gate.records.search import SearchRecord
from compression_gate.records.verdict import Check, Point, Subject
from compression_gate.reporters import html
from compression_gate.stages import gate, report
from compression_gate.stages.report import read_findings, with_samples

GOLDEN = Path(__file__).parent / "golden"
EMPTY = {"meta", "rect", "line", "circle", "path", "br", "wbr"}


def findings_of(suite: Path):
    return with_samples(read_findings(suite), suite)


def test_page_is_the_same_byte_for_byte(whole: Path) -> None:
    """`UPDATE_GOLDEN=1 pytest` writes the file anew; look at it in a browser before committing it."""
    text = html.rendered(findings_of(whole))
    assert html.rendered(findings_of(whole)) == text
    text = re.sub(r"[0-9a-f]{64}", "(digest)", text)  # npz files differ between versions of numpy
    golden = GOLDEN / "report.html"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


SECTIONS = [
    "checks",
    "trade",
    "steps",
    "slices",
    "timing",
    "confusion",
    "layers",
    "sensitivity",
    "training",
    "evidence",
]


def test_every_part_has_its_section_in_the_order_of_urgency(whole: Path) -> None:
    assert re.findall(r'<section id="(\w+)">', html.rendered(findings_of(whole))) == SECTIONS


def test_what_to_do_comes_before_anything_else_where_something_fails(whole: Path) -> None:
    params = whole / "params.yaml"
    params.write_text(params.read_text().replace("max: 2000", "max: 500"))
    gate.run(whole)
    text = html.rendered(findings_of(whole))
    assert re.findall(r'<section id="(\w+)">', text) == ["next", *SECTIONS]
    assert text.index("Lower size_bytes by 500 bytes") < text.index("Failing and undecided") < text.index("<details>")


def test_a_verdict_that_no_check_explains_ends_in_one_stop(whole: Path) -> None:
    findings = findings_of(whole)
    verdict = findings.verdict.model_copy(update={"status": "fail"})
    assert '<span class="s-fail word">Fail.</span> </h1>' in html.rendered(replace(findings, verdict=verdict))


def test_a_check_that_stands_under_no_rule_is_shown_however_many_there_are(whole: Path) -> None:
    findings = findings_of(whole)
    failing = {"status": "fail", "metric": "recall", "limit": "max_drop 0.01", "allowed": -0.01, "observed": 0.8}
    places = range(html.MOST_OPEN + 5)
    checks = (
        *(Check(rule="classes", slice=f"class={n}", change=-0.02, **failing) for n in places),
        *(Check(rule=f"alone {n}", change=-0.02, **failing) for n in places),
    )
    text = html.rendered(replace(findings, verdict=findings.verdict.model_copy(update={"checks": checks})))
    table = text[text.index('<section id="checks">') : text.index('<section id="trade">')]
    assert all(f"<b>alone {n}</b>" in table for n in places)
    assert table.count("<b>classes / ") == html.MOST_OPEN
    assert "and 5 more, of slices: under their rules below" in table


class Strict(HTMLParser):
    """Elements open and close in order; every place that may name another file is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.named: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.named += [(name, value) for name, value in attrs if name in ("src", "href", "style", "action")]
        self.named += [(name, value) for name, value in attrs if name.startswith("on")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_names_no_other_file(whole: Path) -> None:
    text = html.rendered(findings_of(whole))
    parser = Strict()
    parser.feed(text)
    assert parser.open == []
    assert parser.named == []
    assert "http" not in re.sub(r'http-equiv="', "", text)


def test_policy_of_the_page_allows_its_own_script_and_style_only(whole: Path) -> None:
    text = html.rendered(findings_of(whole))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    assert html.source_digest(script) in policy
    assert html.source_digest(re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]) in policy


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7 * 7 }}"


def test_what_a_contributor_names_stays_text(whole: Path) -> None:
    """In every text of the verdict and of the records at once."""
    verdict = json.loads((whole / "reports/verdict.json").read_text())
    for check in verdict["checks"]:
        check |= {"rule": HOSTILE, "message": HOSTILE, "mending": HOSTILE, "status": "undecided"}
        check["slice"] = check["slice"] and HOSTILE
    verdict["warnings"], verdict["environment"] = [HOSTILE], {HOSTILE: HOSTILE}
    verdict["candidate"]["commit"] = HOSTILE
    (whole / "reports/verdict.json").write_text(json.dumps(verdict))
    path = whole / "reports/compression.json"
    record = json.loads(path.read_text())
    record["steps"][0] |= {"method": HOSTILE, "layer_bytes": {HOSTILE: 5}, "uncovered": {HOSTILE: HOSTILE}}
    record["integers"] = [HOSTILE]
    record["steps"][0] |= {"curves": {HOSTILE: record["steps"][0]["curves"]["student"]}}
    path.write_text(json.dumps(record))
    text = html.rendered(replace(findings_of(whole), suite=HOSTILE))
    assert text.count("<script>") == 1
    assert "<img" not in text
    parser = Strict()
    parser.feed(text)
    assert parser.named == []
    assert "{{ 7 * 7 }}" in text


BARE = ["compression.json", "evaluation.json", "benchmark.json", "predictions.npz", "timings.npz", "training.csv"]


@pytest.mark.parametrize("name", BARE)
@pytest.mark.parametrize("text", [None, "PK\x03\x04 cut"])
def test_a_missing_or_damaged_record_leaves_its_section_out(whole: Path, name: str, text: str | None) -> None:
    (whole / "reports" / name).unlink()
    if text is not None:
        (whole / "reports" / name).write_text(text)
    gate.run(whole)
    report.run(whole)
    assert "</html>" in (whole / "reports/report.html").read_text(encoding="utf-8")


def test_a_run_that_crashed_shows_what_it_said_and_no_older_figures(whole: Path) -> None:
    findings = read_findings(whole)
    gate.crashed_verdict(whole, findings.params, {"stage": "train", "exit_code": 4, "message": "out of memory"})
    report.run(whole)
    text = (whole / "reports/report.html").read_text(encoding="utf-8")
    assert "out of memory" in text
    assert re.findall(r'<section id="(\w+)">', text) == ["next", "checks", "evidence"]


def test_sensitivities_of_another_reference_are_not_shown(whole: Path) -> None:
    step = read_findings(whole).compression.steps[0]
    table = step.sensitivity[0].model_copy(update={"artifact_digest": "of another"})
    table.write(whole / "reports/sensitivity.json")
    assert findings_of(whole).sensitivity is None
    digest = read_findings(whole).verdict.reference.digest
    table.model_copy(update={"artifact_digest": digest}).write(whole / "reports/sensitivity.json")
    assert findings_of(whole).sensitivity is not None


def test_the_layer_that_a_step_treats_so_is_framed(whole: Path) -> None:
    text = html.rendered(findings_of(whole))
    assert re.findall(r'<td class="m\d+ chosen">([^<]*)</td>', text) == ["−4.00 (+0.200)"]


def test_every_table_of_sensitivities_says_what_it_is_held_against(whole: Path) -> None:
    findings = findings_of(whole)
    (table,) = findings.compression.steps[0].sensitivity
    other = table.model_copy(update={"quality": 0.7, "n": 30})
    text = html.rendered(replace(findings, sensitivity=other))
    assert re.findall(r"accuracy [\d.]+ %, loss 0.5000 on \d+ validation", text) == [
        "accuracy 90.00 %, loss 0.5000 on 90 validation",
        "accuracy 70.00 %, loss 0.5000 on 30 validation",
    ]


SHADES = [  # metric, what three strengths lose, what is said of it, how deep each is shaded of 20
    ("accuracy", (0.05, 0.2, -0.01), ["−5.00", "−20.00", "+1.00"], [10, 20, 0]),
    ("rmse", (1.0, 4.0, -0.5), ["+1.00", "+4.00", "−0.500"], [10, 20, 0]),
    ("score", (40.0, 160.0, -2.0), ["−40.0", "−160", "+2.00"], [10, 20, 0]),
]


@pytest.mark.parametrize(("metric", "drops", "words", "levels"), SHADES)
def test_sensitivities_are_signed_and_shaded_by_what_is_lost(whole: Path, metric, drops, words, levels) -> None:
    (table,) = read_findings(whole).compression.steps[0].sensitivity
    rows = [row.model_copy(update={"quality_drop": drop}) for row, drop in zip(table.rows, drops, strict=True)]
    ((_, _, ((_, cells),)),) = html.heat_grids(table.model_copy(update={"metric": metric, "rows": tuple(rows)}), ())
    assert [text.partition(" ")[0] for text, _, _ in cells] == words
    assert [level for _, level, _ in cells] == levels


def test_every_bar_tells_the_level_of_its_own_interval(whole: Path) -> None:
    """Ratios of times are surer than qualities; exact figures have no interval, and spreads of samples no level."""
    text = html.rendered(findings_of(whole))
    levels = dict(re.findall(r'aria-label="(\w+): [^"]*; interval [^"]*, each end at ([\d.]+) %', text))
    assert levels.items() >= {"accuracy": "95", "floor": "95", "f1": "95", "speed": "99.5"}.items()
    assert not {"size", "rate", "latency"} & levels.keys()


def test_a_matrix_of_many_classes_gives_way_to_its_largest_changes(whole: Path) -> None:
    findings = findings_of(whole)
    confusion = replace(findings.samples.confusion, before=(), after=())
    text = html.rendered(replace(findings, samples=replace(findings.samples, confusion=confusion)))
    assert 'class="cm"' not in text
    assert "Largest changes" in text


def test_names_are_told_of_commits(whole: Path) -> None:
    findings = findings_of(whole)
    verdict = findings.verdict.model_copy(update={"candidate": Subject(digest="d" * 64, commit="c" * 40)})
    assert "git switch --detach cccccccccccc" in html.rendered(replace(findings, verdict=verdict))


def test_what_a_search_found_is_shown_small_and_moves_no_front(whole: Path) -> None:
    findings = findings_of(whole)
    before = html.rendered(findings)
    figures = {"accuracy": 0.99, "size_bytes": 500.0, "latency_ms": 0.05}
    tried = Point(role="search one, trial 7", figures=figures, on_front=False)
    after = html.rendered(replace(findings, tried=(tried,)))
    assert after.count('class="model off-front r-tried"') == 2  # once by size, once by latency
    assert "search one, trial 7 (validation split): accuracy, % 99.00" in after
    assert "on the validation split." in after
    assert after.count('class="front"') == before.count('class="front"') > 0


def test_search_of_another_reference_is_not_shown(whole: Path) -> None:
    verdict = read_findings(whole).verdict
    figures = {"accuracy": 0.99, "size_bytes": 500.0, "latency_ms": 0.05}
    search = SearchRecord.model_construct(
        name="one",
        reference_digest=verdict.reference.digest,
        front=[SimpleNamespace(trial=SimpleNamespace(number=7, answer=SimpleNamespace(figures=figures)))],
    )
    assert [point.role for point in report.tried_of([search], verdict)] == ["search one, trial 7"]
    assert report.tried_of([search.model_copy(update={"reference_digest": "another"})], verdict) == ()


def test_record_of_before_layers_were_counted_is_shown_without_them(whole: Path) -> None:
    path = whole / "reports/compression.json"
    record = json.loads(path.read_text())
    record["schema"] = 1
    for step in (record["reference"], *record["steps"]):
        del step["layer_bytes"]
    path.write_text(json.dumps(record))
    text = html.rendered(findings_of(whole))
    assert 'id="steps"' in text
    assert 'id="layers"' not in text
