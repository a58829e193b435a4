"""`search --adopt`: put a recipe in place of the steps of `params.yaml`; not a character more of it is changed.

`dvc.yaml` is told of the recipe's file, as `init --refresh` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from yaml import CollectionNode, MappingNode, Node

from compression_gate.errors import ParamsError
from compression_gate.methods.chain import recipe_of, steps_of
from compression_gate.pipeline.definition import FILE_NAME as DEFINITION_NAME
from compression_gate.records.base import write_bytes
from compression_gate.records.params import FILE_NAME, read_params
from compression_gate.records.search import SearchRecord
from compression_gate.stages.init import refresh

RECIPE = "recipe"
REPLACED = (RECIPE, "steps", "target")  # of `compress`: at most one of them says something
NULL = "tag:yaml.org,2002:null"


def digest_in_use(suite: Path) -> str | None:
    """The digest of the steps that the params hold, or name; None where there are none that can be read."""
    try:
        params = read_params(suite)
        return None if params.compress.target else recipe_of(steps_of(params, suite)).digest
    except ParamsError:
        return None


def adopt_found(suite: Path, found: SearchRecord, before: str | None) -> bool:
    """Adopt what a search found where it improves on what the search started from; return whether the steps are others.

    Args:
        before: digest of the steps that were in use when it began.

    Raises:
        ParamsError: see :func:`adopt`.
    """
    if found.best is None or found.recipe is None or not found.improves or found.best.recipe_digest == before:
        return False
    adopt(suite, found.recipe)
    return True


def adopt(suite: Path, recipe: str) -> bool:
    """Name a recipe file under `compress.recipe`; return whether anything changed.

    Raises:
        ParamsError: it cannot take the place of what stands there, what came of it cannot be read, or `dvc.yaml`
            cannot; the params are as they were then.
    """
    path = suite / FILE_NAME
    if read_params(suite).compress.recipe == recipe:
        return False
    before = path.read_bytes()
    after = with_recipe(before.decode(), recipe)
    check_rest(before.decode(), after, recipe)
    write_bytes(path, after.encode())
    try:
        read_params(suite)
        if (suite / DEFINITION_NAME).exists():
            refresh(suite)
    except ParamsError:
        write_bytes(path, before)
        raise
    return True


def check_rest(before: str, after: str, recipe: str) -> None:
    """Make sure that nothing else changes: anchors, aliases and merged mappings reach further than their place.

    Raises:
        ParamsError: something would.
    """
    was, line = yaml.safe_load(before), yaml.compose(before, Loader=yaml.SafeLoader)
    try:
        now = yaml.safe_load(after)
    except yaml.YAMLError:
        now = None
    if not isinstance(now, dict) or rest_of(now) != rest_of(was) or said(now) != {RECIPE: recipe}:
        place = value_of(line, "compress")
        number = place.start_mark.line + 1 if place else 1
        raise ParamsError(
            f"{FILE_NAME}:{number}: compress: expected steps, a target or a recipe that can be taken out alone, got "
            f"some that the rest of the file has a part in: write `recipe: {recipe}` in their place by hand"
        )


def rest_of(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a params file without what a recipe takes the place of."""
    compress = values.get("compress") or {}
    return {**values, "compress": {key: value for key, value in compress.items() if key not in REPLACED}}


def said(values: dict[str, Any]) -> dict[str, Any]:
    """What stands where a recipe may."""
    return {key: value for key in REPLACED if (value := (values.get("compress") or {}).get(key))}


def with_recipe(text: str, recipe: str) -> str:
    """The text of a params file with a recipe in place of steps, target or another recipe."""
    line, newline = f"{RECIPE}: {json.dumps(recipe)}", "\r\n" if "\r\n" in text else "\n"
    compress = value_of(yaml.compose(text, Loader=yaml.SafeLoader), "compress")
    if compress is None:
        return f"{text.rstrip()}{newline}compress: {{{line}}}{newline}"
    if not isinstance(compress, MappingNode) or not compress.value:
        # Nothing is in it, be it null or braces.
        return f"{text[: compress.start_mark.index].rstrip()} {{{line}}}{text[compress.end_mark.index :]}"
    entries = [(key, value) for key, value in compress.value if key.value in REPLACED]
    if not entries:
        first = compress.value[0][0].start_mark
        apart = ", " if compress.flow_style else newline + " " * first.column
        return text[: first.index] + line + apart + text[first.index :]
    kept = next((entry for entry in entries if says_something(entry[1])), entries[0])
    spans = [(kept[0].start_mark.index, last_index(kept[1]), line)]
    spans += [(*span_of(text, compress, key), "") for key, _ in entries if key.value == RECIPE and key is not kept[0]]
    for start, end, instead in sorted(spans, reverse=True):
        text = text[:start] + instead + text[end:]
    return text


def says_something(node: Node) -> bool:
    """Whether a value is neither null nor empty."""
    return bool(node.value) and node.tag != NULL


def span_of(text: str, mapping: MappingNode, key: Node) -> tuple[int, int]:
    """Where an entry of a mapping begins and ends with all that parts it from others: its lines, or its comma."""
    place = next(index for index, entry in enumerate(mapping.value) if entry[0] is key)
    start, end = key.start_mark.index, last_index(mapping.value[place][1])
    if not mapping.flow_style:
        return start - key.start_mark.column, text.find("\n", end) + 1 or len(text)
    if place + 1 < len(mapping.value):
        return start, mapping.value[place + 1][0].start_mark.index
    return last_index(mapping.value[place - 1][1]), end


def value_of(node: Node | None, name: str) -> Node | None:
    """The node under a key of a mapping; None where there is none."""
    pairs = node.value if isinstance(node, MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def last_index(node: Node) -> int:
    """Where a node's own text ends: a block's end mark lies behind the comments of what follows."""
    if not isinstance(node, CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return last_index(last[1] if isinstance(last, tuple) else last)
