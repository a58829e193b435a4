"""The tables of docs/records.md from what is on file: `python benchmarks/records/tables.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ELSEWHERE = ("zlib", "lzma", "zstd-19", "static")
NETS = {"mlp": "LeNet-300-100, MNIST", "cnn": "LeNet-5, MNIST"}


def tables() -> list[list[str]]:
    """Return each table's lines."""
    lenet = json.loads((RESULTS / "lenet.json").read_text(encoding="utf-8"))
    task = json.loads((RESULTS / "default_task.json").read_text(encoding="utf-8"))
    tested = [row for row in lenet if row["test_error"] is not None]
    return [reached(tested), files(tested), steering(lenet), default_task(task["rows"])]


def summary() -> list[str]:
    """Return the lines of the README's table: means over seeds of those recipes that were run on several."""
    lenet = json.loads((RESULTS / "lenet.json").read_text(encoding="utf-8"))
    task = json.loads((RESULTS / "default_task.json").read_text(encoding="utf-8"))["rows"]
    lines = ["| network | bytes | times smaller | at what price |", "|---|---:|---:|---|"]
    for name, own in sorted(by_recipe([row for row in lenet if row["test_error"] is not None]).items(), reverse=True):
        if len(own) > 1:
            price = f"{mean(own, 'test_error'):.2f} % test errors"
            size = f"{mean(own, 'bytes'):,.0f} | {mean(own, 'ratio'):,.0f}"
            lines.append(f"| {NETS[name.partition(' ')[0]]} | {size} | {price} |")
    price = f"{100 * mean(task, 'test_drop'):.2f} points of test accuracy; {mean(task, 'speedup'):.1f}× faster"
    size = f"{mean(task, 'bytes'):,.0f} | {mean(task, 'ratio'):,.0f}"
    return [*lines, f"| the default suite's, Fashion-MNIST | {size} | {price} |"]


def mean(rows: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a figure."""
    return sum(row[key] for row in rows) / len(rows)


def by_recipe(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each recipe, in the order of their seeds."""
    names = dict.fromkeys(row["recipe"] for row in rows)
    return {name: sorted((row for row in rows if row["recipe"] == name), key=lambda row: row["seed"]) for name in names}


def reached(rows: list[dict[str, Any]]) -> list[str]:
    """One line a recipe: mean and worst over its seeds."""
    lines = [
        "| recipe | seeds | bytes | times smaller | test error, % | validation error, % | cold minutes |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, own in by_recipe(rows).items():
        seeds = ", ".join(str(row["seed"]) for row in own)
        cells = (
            spread([row["bytes"] for row in own], ",.0f"),
            spread([row["ratio"] for row in own], ",.0f", worst=min),
            spread([row["test_error"] for row in own], ".2f"),
            spread([row["validation_error"] for row in own], ".2f"),
            spread([sum(row["seconds"].values()) / 60 for row in own], ".1f"),
        )
        lines.append(f"| {name} | {seeds} | {' | '.join(cells)} |")
    return lines


def files(rows: list[dict[str, Any]]) -> list[str]:
    """One line a file, beside what its integers take elsewhere."""
    lines = [
        f"| recipe | seed | test error, % | non-zeros | coded file | {' | '.join(ELSEWHERE)} |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(ELSEWHERE)}",
    ]
    for name, own in by_recipe(rows).items():
        for row in own:
            others = " | ".join(f"{row['elsewhere'][key]:,}" for key in ELSEWHERE)
            start = f"| {name} | {row['seed']} | {row['test_error']:.2f} | {row['nonzeros']:,} "
            lines.append(f"{start}| {row['bytes']:,} | {others} |")
    return lines


def steering(rows: list[dict[str, Any]]) -> list[str]:
    """One line for each run that was made to compare a target with a price."""
    lines = ["| recipe | seed | bytes | validation error, % |", "|---|---:|---:|---:|"]
    return lines + [
        f"| {row['recipe']} | {row['seed']} | {row['bytes']:,} | {row['validation_error']:.2f} |"
        for row in rows
        if row["test_error"] is None
    ]


def default_task(rows: list[dict[str, Any]]) -> list[str]:
    """One line a seed."""
    lines = [
        "| seed | bytes | times smaller | points lost on validation | points lost on test | speedup | minutes |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: row["seed"]):
        lost = f"{100 * row['validation_drop']:.2f} | {100 * row['test_drop']:.2f}"
        size = f"{row['bytes']:,} | {row['ratio']:.0f}"
        lines.append(f"| {row['seed']} | {size} | {lost} | {row['speedup']:.2f} | {row['compress_seconds'] / 60:.1f} |")
    return lines


def spread(values: list[float], form: str, worst: Any = max) -> str:
    """Return the mean, and the worst behind it where there are several."""
    middle = format(sum(values) / len(values), form)
    return middle if len(values) == 1 else f"{middle} ({format(worst(values), form)})"


def main() -> None:
    """Print them."""
    print("\n\n".join("\n".join(table) for table in [*tables(), summary()]))


if __name__ == "__main__":
    main()
