"""The tables of docs/records.md from what is on file: `python benchmarks/records/tables.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ELSEWHERE = ("zlib", "lzma", "zstd-19", "static")
NETS = {"mlp": "LeNet-300-100, MNIST", "cnn": "LeNet-5, MNIST"}
KINDS = {"alone": ", without augmentation or teacher", "tied": ", kernels of its first layer shared"}
SUITES = {
    "default": "the default suite's, Fashion-MNIST",
    "lstm": "two LSTM layers, spoken digits",
    "mobilenet": "MobileNetV2, Fashion-MNIST",
    "resnet": "a residual network, Fashion-MNIST",
    "transformer": "a transformer, Fashion-MNIST",
}


def tables() -> list[list[str]]:
    """Return each table's lines."""
    lenet = json.loads((RESULTS / "lenet.json").read_text(encoding="utf-8"))
    suites = json.loads((RESULTS / "suites.json").read_text(encoding="utf-8"))
    tested = [row for row in lenet if row["test_error"] is not None]
    return [reached(tested), files(tested), steering(lenet), whole_suites(suites), their_integers(suites)]


def summary() -> list[str]:
    """Return the lines of the README's table: means over seeds of those recipes that were run on several."""
    lenet = json.loads((RESULTS / "lenet.json").read_text(encoding="utf-8"))
    suites = by_recipe(json.loads((RESULTS / "suites.json").read_text(encoding="utf-8")), "row")
    lines = ["| network | bytes | times smaller | at what price |", "|---|---:|---:|---|"]
    tested = by_recipe([row for row in lenet if row["test_error"] is not None])
    for name in sorted(tested, key=lambda name: (name[:3], not name.endswith("alone"), name), reverse=True):
        if len(own := tested[name]) > 1:
            price = f"{mean(own, 'test_error'):.2f} % test errors"
            size = f"{mean(own, 'bytes'):,.0f} | {mean(own, 'ratio'):,.0f}"
            net, _, kind = name.partition(" ")
            lines.append(f"| {NETS[net]}{KINDS.get(kind, '')} | {size} | {price} |")
    for name, own in suites.items():
        if len(own) > 1:
            speedup = mean(own, "speedup")
            faster = f"; {speedup:.1f}× faster" if speedup > 1.1 else ""
            price = f"{100 * mean(own, 'test_drop'):.2f} points of test accuracy{faster}"
            size = f"{mean(own, 'bytes'):,.0f} | {mean(own, 'ratio'):,.0f}"
            lines.append(f"| {SUITES[name.partition(',')[0]]} | {size} | {price} |")
    return lines


def mean(rows: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a figure."""
    return sum(row[key] for row in rows) / len(rows)


def by_recipe(rows: list[dict[str, Any]], key: str = "recipe") -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each recipe, in the order of their seeds."""
    names = dict.fromkeys(row[key] for row in rows)
    return {name: sorted((row for row in rows if row[key] == name), key=lambda row: row["seed"]) for name in names}


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


def whole_suites(rows: list[dict[str, Any]]) -> list[str]:
    """One line a row: mean and worst over its seeds."""
    lines = [
        "| suite | seeds | bytes | times smaller | points lost on test | n | on validation | times faster | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, own in by_recipe(rows, "row").items():
        cells = (
            ", ".join(str(row["seed"]) for row in own),
            spread([row["bytes"] for row in own], ",.0f"),
            spread([row["ratio"] for row in own], ",.0f", worst=min),
            spread([100 * row["test_drop"] for row in own], ".2f"),
            f"{own[0]['n']:,}",
            spread([100 * row["validation_drop"] for row in own], ".2f"),
            spread([row["speedup"] for row in own], ".2f", worst=min),
            spread([row["compress_seconds"] / 60 for row in own], ".1f"),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def their_integers(rows: list[dict[str, Any]]) -> list[str]:
    """One line a file: the integers of its weights alone, in a coded file and elsewhere."""
    lines = ["| suite | seed | weights | coded | zstd-19 | lzma | zlib | entropy | below zstd-19 |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        if sizes := row.get("integers"):
            cells = [sizes[key] for key in ("numbers", "small", "zstd_19", "lzma", "zlib", "static_entropy")]
            gain = 1 - sizes["small"] / sizes["zstd_19"]
            lines.append(
                f"| {row['row']} | {row['seed']} | {' | '.join(f'{one:,.0f}' for one in cells)} | {gain:.0%} |"
            )
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
