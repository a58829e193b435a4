"""A coded file on a terminal: what each tensor takes, and a bar of it."""

from __future__ import annotations

from rich.text import Text

from compression_gate.records.coded import CodedTensor, Inspection
from compression_gate.reporters.terminal import stdout, table
from compression_gate.reporters.wording import harmless

COLUMNS = ("name", "shape", "form", "non-zero", "plain, bytes", "coded, bytes", "bits", "entropy", "")
WIDEST_BAR = 12


def show(found: Inspection) -> None:
    """Print the table, then what the whole file takes."""
    console = stdout()
    most = max((one.coded_bytes for one in found.tensors), default=0.0)
    rows = [row(one, most) for one in found.tensors]
    head = f"{found.head_bytes:,.1f}"
    rows.append(["header and structure", "", "", "", "", head, "", "", bar(found.head_bytes, most)])
    console.print(table(COLUMNS, rows))
    plain = sum(one.plain_bytes for one in found.tensors)
    numbers = sum(one.numbers for one in found.tensors)
    told = (
        f"{found.file}: {found.kind}, profile {found.profile}: {found.size_bytes:,} bytes for {numbers:,} numbers of "
        f"{plain:,} bytes: {plain / found.size_bytes:,.1f}×"
    )
    console.print(Text(harmless(told)))


def row(one: CodedTensor, most: float) -> list[str]:
    """A tensor's row."""
    numbers = max(one.numbers, 1)
    return [
        one.name,
        f"{one.type} {'×'.join(map(str, one.shape)) or '1'}",
        ", ".join(one.forms),
        f"{1 - one.zeros / numbers:.0%}",
        f"{one.plain_bytes:,}",
        f"{one.coded_bytes:,.1f}",
        f"{8 * one.coded_bytes / numbers:.2f}",
        f"{one.entropy_bits:.2f}",
        bar(one.coded_bytes, most),
    ]


def bar(value: float, most: float) -> str:
    """A bar, as long as the largest value's is WIDEST_BAR; a thin line for what is too short to be seen."""
    length = round(WIDEST_BAR * value / most) if most else 0
    return "█" * length or ("▏" if value else "")
