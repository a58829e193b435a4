"""`search --adopt`: put a recipe in place of the steps of `params.yaml`; not a character more of it is changed.

`dvc.yaml` is told of the recipe's file, as `init --refresh` does.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from yaml import CollectionNode, MappingNode, Node

from compression_gate.errors import ParamsError
from compression_gate.pipeline.definition import FILE_NAME as DEFINITION_NAME
from compression_gate.records.base import write_text
from compression_gate.records.params import FILE_NAME, read_params
from compression_gate.stages.init import refresh

REPLACED = ("recipe", "steps", "target")  # of `compress`: at most one of them stands there


def adopt(suite: Path, recipe: str) -> bool:
    """Name a recipe file under `compress.recipe`; return whether anything changed.

    Raises:
        ParamsError: what came of it cannot be read, or `dvc.yaml` cannot; the params are as they were then.
    """
    path = suite / FILE_NAME
    if read_params(suite).compress.recipe == recipe:
        return False
    before = path.read_text(encoding="utf-8")
    write_text(path, with_recipe(before, recipe))
    try:
        read_params(suite)
        if (suite / DEFINITION_NAME).exists():
            refresh(suite)
    except ParamsError:
        write_text(path, before)
        raise
    return True


def with_recipe(text: str, recipe: str) -> str:
    """The text of a params file with a recipe in place of steps, target or another recipe."""
    line = f"recipe: {json.dumps(recipe)}"
    compress = value_of(yaml.compose(text, Loader=yaml.SafeLoader), "compress")
    if compress is None:
        return f"{text.rstrip()}\ncompress: {{{line}}}\n"
    if not isinstance(compress, MappingNode) or not compress.value:
        # Nothing is in it, be it null or braces.
        return f"{text[: compress.start_mark.index].rstrip()} {{{line}}}{text[compress.end_mark.index :]}"
    for key, value in compress.value:
        if key.value in REPLACED:
            return text[: key.start_mark.index] + line + text[last_index(value) :]
    first = compress.value[0][0].start_mark
    apart = ", " if compress.flow_style else "\n" + " " * first.column
    return text[: first.index] + line + apart + text[first.index :]


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
