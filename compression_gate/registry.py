"""Plugins by name: a literal table for the built-in ones, entry points for the rest, loaded only when named."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compression_gate.errors import MissingDependencyError, UnknownPluginError


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One row of a plugin table.

    Args:
        target: dotted path ``package.module:Name`` of the plugin.
        summary: one line for ``compression-gate list``.
        needs: extra of this package that installs what the plugin imports, or None.
    """

    target: str
    summary: str
    needs: str | None = None


def find(kind: str, name: str, table: Mapping[str, Plugin]) -> Plugin:
    """Return the row of ``name``, looking at the entry points of ``kind`` for names the table lacks.

    Raises:
        UnknownPluginError: neither knows it; the message holds the nearest known name.
    """
    if name in table:
        return table[name]
    for entry in importlib.metadata.entry_points(group=f"compression_gate.{kind}"):
        if entry.name == name:
            return Plugin(target=entry.value, summary=f"from {entry.dist.name if entry.dist else entry.value}")
    raise UnknownPluginError(f"{kind}: expected one of {', '.join(sorted(table))}, got {name!r}{nearest(name, table)}")


def load(kind: str, name: str, table: Mapping[str, Plugin]) -> Any:
    """Import what ``name`` stands for.

    Raises:
        UnknownPluginError: nobody knows the name.
        MissingDependencyError: a library it needs is not installed; the message holds the line that installs it.
    """
    plugin = find(kind, name, table)
    module, _, attribute = plugin.target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "compression_gate":
            raise
        extra = f"[{plugin.needs}]" if plugin.needs else ""
        raise MissingDependencyError(
            f"{kind}: {name} needs the library {error.name!r}, which is not installed: "
            f"pip install 'compression-gate{extra}'"
        ) from error


def nearest(name: object, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.55)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(key: str, known: Sequence[str]) -> str:
    """Say that a key is unknown, and which are known."""
    return f"expected one of {', '.join(known)}, got {key!r}{nearest(key, known)}"
