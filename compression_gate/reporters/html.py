"""`report.html`: the whole report as one file that needs no network, for a screen, a phone or paper."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compression_gate.records.metric_table import is_fraction
from compression_gate.records.metrics import CurvePoint, StepRecord
from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.records.verdict import Check
from compression_gate.reporters import (
    plots_checks,
    plots_models,
    plots_timing,
    record_tables,
    sensitivity,
    wording,
)
from compression_gate.reporters.base import Findings
from compression_gate.reporters.svg import Scale, spread

PAGE = Path(__file__).parent / "page"
LEVELS = 20  # of shading, each a class of the style sheet
WORST_LOSS = 0.2  # of any fraction: where a layer's loss is shaded in full
MOST_SLICES = 12  # rows of a rule that are open; the others are one click away
MOST_LAYERS = 40
MOST_OPEN = 100  # checks that do not pass; beyond it those of slices stand under their rule alone
HeatGrid = tuple[str, list[str], list[tuple[str, list[tuple[str, int, bool]]]]]


def rendered(findings: Findings) -> str:
    """The report as HTML."""
    verdict = findings.verdict
    slices = slices_of(verdict.checks)
    drawn = {id(check) for _, _, found in slices for check in found}  # below, where there is a scale for them
    open_checks = [check for check in wording.ordered(verdict.checks) if check.status != "pass"]
    shown = [check for place, check in enumerate(open_checks) if place < MOST_OPEN or id(check) not in drawn]
    word, _, rest = wording.headline(findings, verdict.status).partition(".")
    return page(
        "report.html.j2",
        findings=findings,
        verdict=verdict,
        word=word,
        rest=rest.strip(),
        counts=counts_of(verdict.checks),
        steps_to_take=wording.next_steps(verdict, findings.rule_lines),
        notes=[*findings.adoptions, *wording.notes_of(verdict)],
        open_checks=shown,
        more_open=len(open_checks) - len(shown),
        blocking=[check for check in verdict.checks if check.level == "block" and check.status == "pass"],
        passing=[check for check in verdict.checks if check.status == "pass" and id(check) not in drawn],
        panels=plots_models.trade_off_panels(verdict, findings.tried),
        slices=slices,
        ratio_plots=ratio_plots(findings),
        waterfall=waterfall_of(findings),
        layers=layers_of(findings),
        heat=heat_of(findings),
        curves=curves_of(findings),
        remarks=record_tables.training_lines(findings),
    )


def page(template: str, **content: object) -> str:
    """Fill one of the page templates; its style and script are part of it, and nothing else may run."""
    style, script = (Markup((PAGE / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))  # noqa: S704  # our own files
    return (
        environment()
        .get_template(template)
        .render(
            style=style,
            script=script,
            style_digest=source_digest(style),
            script_digest=source_digest(script),
            **content,
        )
    )


@cache
def environment() -> Environment:
    """Templates that escape whatever they are given, with the words and drawings that they may use."""
    made = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals.update(
        w=wording,
        tables=record_tables,
        checks=plots_checks,
        models=plots_models,
        timing=plots_timing,
        shade=shade,
        most_slices=MOST_SLICES,
        most_layers=MOST_LAYERS,
    )
    return made


def source_digest(text: str) -> str:
    """What the content security policy knows an inline style or script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def counts_of(checks: Sequence[Check]) -> list[tuple[str, int]]:
    """How many checks came out how, the most urgent first; those that pass are told even if there are none."""
    counted = {status: sum(check.status == status for check in checks) for status in wording.URGENCY}
    return [(status, number) for status, number in counted.items() if number or status == "pass"]


def slices_of(checks: Sequence[Check]) -> list[tuple[str, Scale, list[Check]]]:
    """For each rule over slices: its scale, and its checks, the most urgent and nearest to the limit first."""
    rules: dict[str, list[Check]] = {}
    for check in checks:
        if check.slice is not None and plots_checks.places_of(check):
            rules.setdefault(check.rule, []).append(check)
    return [
        (rule, plots_checks.slice_scale(found), sorted(found, key=wording.least_room_first))
        for rule, found in rules.items()
    ]


def ratio_plots(findings: Findings) -> list[tuple[str, Markup]]:
    """For each model timed against: the ratios of times beside those of the control."""
    pairs = findings.benchmark.pairs if findings.benchmark else {}
    drawn = {
        role: plots_timing.ratio_plot(role, pair, plots_timing.limits_on(role, findings.verdict.checks))
        for role, pair in pairs.items()
    }
    return [(role, picture) for role, picture in drawn.items() if picture is not None]


def waterfall_of(findings: Findings) -> list[dict[str, object]]:
    """One row a step: its bars of bytes and of quality, each from where the step before it ended."""
    record = findings.compression
    if record is None:
        return []
    quality = next(iter(record.reference.quality), None)
    steps = (record.reference, *record.steps)
    size_scale = Scale(low=0, high=max(step.state_bytes for step in steps) or 1, begin=0, end=100)
    found = [value for step in steps if quality and (value := step.quality.get(quality)) is not None]
    low, high = spread(found, room=0.15) if found else (0.0, 1.0)
    quality_scale = Scale(low=low, high=high, begin=0, end=100)
    better = wording.direction_in(findings.verdict.checks, quality) if quality else 1
    rows = []
    for before, step, name in zip((None, *steps), steps, record_tables.step_names(findings), strict=False):
        rows.append(
            {
                "name": name,
                "step": step,
                "size": step_bar(before, step, size_scale),
                "quality": step_bar(before, step, quality_scale, quality, better) if quality else None,
                "metric": quality,
                "size_change": relative(before.state_bytes, step.state_bytes) if before else "",
                "quality_change": change_of(before, step, quality) if before and quality else "",
            }
        )
    return rows


def step_bar(
    before: StepRecord | None, step: StepRecord, scale: Scale, quality: str | None = None, better: int = 1
) -> Markup | str:
    """A step's bar of its bytes, or of a quality; the whole of it for the model before the first step.

    Args:
        better: 1 where more of the quality is better, -1 where less is.
    """
    old, new = (figure_of(one, quality) if one else None for one in (before, step))
    if new is None:
        return wording.NOTHING
    if before is None:
        return plots_models.whole(new, scale)
    worse = quality is not None and old is not None and better * (new - old) < 0
    kind = "this" if quality is None else "worse" if worse else "better"
    return plots_models.waterfall(new if old is None else old, new, scale, kind)


def figure_of(step: StepRecord, quality: str | None) -> float | None:
    """A step's bytes, or its quality."""
    return step.state_bytes if quality is None else step.quality.get(quality)


def relative(old: float, new: float) -> str:
    """A change in per cent of what was there."""
    if not old or new == old:
        return "unchanged"
    return f"{100 * (new - old) / old:+.0f} %".replace("-", "−")


def change_of(before: StepRecord, step: StepRecord, quality: str) -> str:
    """The change of a step's quality."""
    old, new = before.quality.get(quality), step.quality.get(quality)
    return wording.signed(quality, new - old) if old is not None and new is not None else ""


def layers_of(findings: Findings) -> list[tuple[str, int, int]]:
    """Bytes of every layer before the first step and behind the last, as the network has them in order."""
    record = findings.compression
    if record is None or not record.steps:
        return []
    before, after = record.reference.layer_bytes, record.steps[-1].layer_bytes
    return [(name or "(the model itself)", before.get(name, 0), after.get(name, 0)) for name in {**before, **after}]


def heat_of(findings: Findings) -> list[tuple[str, list[HeatGrid]]]:
    """Each table of sensitivities: what its figures are held against, and its grids."""
    record = findings.compression
    steps = record.steps if record else ()
    found = [*(table for step in steps for table in step.sensitivity), *filter(None, [findings.sensitivity])]
    return [(sensitivity.headline(table), grids) for table in found if (grids := heat_grids(table, steps))]


def heat_grids(table: SensitivityTable, steps: Sequence[StepRecord]) -> list[HeatGrid]:
    """For each method: its title, its strengths, and for each layer the change in words, its shade, whether chosen."""
    grids = []
    for method in dict.fromkeys(row.method for row in table.rows):
        layers = table.of(method)
        strengths = sorted({row.strength for rows in layers.values() for row in rows})
        rows = []
        for layer, cells in layers.items():
            by_strength = {cell.strength: cell for cell in cells}
            rows.append((layer, [heat_cell(by_strength.get(one), table, steps) for one in strengths]))
        if rows:
            option = next(iter(layers.values()))[0].option
            grids.append((f"{method}, by {option}", [f"{one:g}" for one in strengths], rows))
    return grids


def full_shade(table: SensitivityTable) -> float:
    """The drop that is shaded in full: one of all fractions, so that tables compare; of others the table's largest."""
    if is_fraction(table.metric):
        return WORST_LOSS
    return max((row.quality_drop or 0.0 for row in table.rows), default=0.0)


def heat_cell(cell: Sensitivity | None, table: SensitivityTable, steps: Sequence[StepRecord]) -> tuple[str, int, bool]:
    """What changes in words, the shade of what is lost, and whether a step of the recipe treats this layer so."""
    if cell is None:
        return sensitivity.NOT_TREATED, 0, False
    chosen = any(
        step.method == cell.method and step.options.get(cell.option) == cell.strength and cell.layer in step.covered
        for step in steps
    )
    return sensitivity.lost(cell, table.metric), shade(cell.quality_drop or 0.0, full_shade(table)), chosen


def shade(value: float, largest: float) -> int:
    """A level of shading: the root of the share, so that small ones are seen beside large ones."""
    if not value > 0 or not largest > 0:
        return 0
    return max(1, min(LEVELS, round(LEVELS * math.sqrt(value / largest))))


def curves_of(findings: Findings) -> list[tuple[str, Sequence[CurvePoint]]]:
    """Every training: the reference's, and those inside of steps."""
    steps = findings.compression.steps if findings.compression else ()
    return [
        *([("training the reference", findings.training)] if findings.training else []),
        *((f"{step.method}: {label}", curve) for step in steps for label, curve in step.curves.items() if curve),
    ]
