"""The table of sensitivities: layers down, strengths across, what is lost in each field."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from compression_gate.records.metric_table import direction
from compression_gate.records.sensitivity import Sensitivity, SensitivityTable
from compression_gate.reporters import wording
from compression_gate.reporters.terminal import line, stdout, table

NOT_TREATED = "–"
Grid = tuple[str, list[str], list[list[str]]]


def show(found: SensitivityTable) -> None:
    """Print one table a method, then why some layers have no figures."""
    console = stdout()
    console.print(Text(headline(found), style="bold"))
    for title, names, rows in grids(found):
        console.print(Text(title, style="bold"))
        console.print(table(names, rows))
    for reason in reasons(found):
        console.print(line(reason, "dim"))


def headline(found: SensitivityTable) -> str:
    """What the figures are held against."""
    whole = f"{found.metric} {wording.figure(found.metric, found.quality)} {wording.unit_of(found.metric)}".rstrip()
    loss = "" if found.loss is None else f", loss {found.loss:.4f}"
    return f"{whole}{loss} on {found.n:,} validation examples; what one layer alone changes, of the loss in brackets:"


def grids(found: SensitivityTable) -> list[Grid]:
    """For each method: a title, the head, and a row for each layer that has figures at some strength."""
    result = []
    for method in dict.fromkeys(row.method for row in found.rows):
        layers = found.of(method)
        strengths = sorted({row.strength for rows in layers.values() for row in rows})
        if not layers:
            continue
        option = next(iter(layers.values()))[0].option
        names = ["layer", *(f"{strength:g}" for strength in strengths), "at most saved"]
        rows = []
        for layer, cells in layers.items():
            by_strength = {cell.strength: cell for cell in cells}
            shown = [lost(by_strength.get(strength), found.metric) for strength in strengths]
            members = cells[0].members
            rows.append([f"{layer} (and {len(members) - 1} more)" if len(members) > 1 else layer, *shown, saved(cells)])
        result.append((f"{method}, by {option}", names, rows))
    return result


def lost(cell: Sensitivity | None, metric: str) -> str:
    """The change of the metric, and in brackets that of the loss."""
    if cell is None:
        return NOT_TREATED
    change = None if cell.quality_drop is None else -direction(metric) * cell.quality_drop
    text = wording.signed(metric, change)
    return text if cell.loss_rise is None else f"{text} ({cell.loss_rise:+.3f})"


def saved(cells: Sequence[Sensitivity]) -> str:
    """The largest saving of each kind over a layer's strengths."""
    best = {
        "bytes": max(cell.bytes_saved for cell in cells),
        "non-zeros": max(cell.nonzeros_saved for cell in cells),
        "MACs": max(cell.macs_saved for cell in cells),
    }
    return ", ".join(f"{value:,} {name}" for name, value in best.items() if value > 0) or NOT_TREATED


def reasons(found: SensitivityTable) -> list[str]:
    """Why some layers have no figures, once for each method and layer."""
    return list(dict.fromkeys(f"{row.layer}: {row.reason}" for row in found.rows if row.reason is not None))
