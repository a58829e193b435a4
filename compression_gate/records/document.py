"""A YAML file of the user's: its values, and the line of every key path, so that a problem can be told by place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from compression_gate.errors import ParamsError

TAG = "tag:yaml.org,2002:"
KINDS = ("str", "int", "float", "bool", "null", "seq", "map", "merge")  # of values that JSON has too
DEEPEST = 100  # levels of one value inside the other; Python's own limit lies above


class PlainLoader(yaml.SafeLoader):
    """YAML whose errors all have a line.

    Dates stay as they were written: a day that the calendar lacks is then a value to complain of.
    """

    depth = 0
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{TAG}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """One value and all in it.

        Raises:
            yaml.composer.ComposerError: it is nested too deeply.
        """
        self.depth += 1
        if self.depth > DEEPEST:
            problem = f"expected at most {DEEPEST} levels of one value inside the other"
            raise yaml.composer.ComposerError(None, None, problem, self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node.

        Raises:
            yaml.constructor.ConstructorError: it is not of the kind that it says, or a number of thousands of digits.
        """
        try:
            if isinstance(node, yaml.ScalarNode):  # JSON escapes some characters as two; one of the two is no text
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            problem = f"a value is not of its kind: expected {kind_of(node)}, got {str(node.value)[:80]!r}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


class Document:
    """A YAML file's values with the line of every key path."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.lines: dict[tuple[str, ...], int] = {}
        self.problems: list[str] = []
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ParamsError(
                f"{path}: missing: `compression-gate init --model package.module:Net --data package.module:load` "
                "writes one"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path}: cannot be read as text: {error}") from error
        try:
            node, self.values = parsed(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ParamsError(f"{name}:{line}: not YAML: {error.problem}: mend the indentation or quotes") from error
        except yaml.YAMLError as error:
            raise ParamsError(f"{name}:1: not YAML: {str(error).splitlines()[0]}") from error
        if node is not None:
            self.walk(node, ())

    def walk(self, node: yaml.Node, path: tuple[str, ...], around: tuple[yaml.Node, ...] = ()) -> None:
        """Note the line of every key, and every key that is there twice.

        Raises:
            ParamsError: an alias inside of what it stands for, or a value that is no plain one.
        """
        self.lines.setdefault(path, node.start_mark.line + 1)
        if any(node is outer for outer in around):
            raise ParamsError(self.placed(path, "holds itself: write the value out"))
        if kind_of(node) not in KINDS:
            text = "expected text, a number, true, false, null, a list or a mapping, got a value of the kind"
            raise ParamsError(self.placed(path, f"{text} !!{kind_of(node)}: write it as one of these"))
        around = (*around, node)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                here = (*path, str(key.value))
                self.lines[here] = key.start_mark.line + 1
                if key.value in seen:
                    self.problem(here, "is written twice: the last would win silently; remove one")
                seen.add(key.value)
                self.walk(key, here, around)
                self.walk(value, here, around)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.walk(value, (*path, str(index)), around)

    def line(self, path: tuple[str, ...]) -> int:
        """The line of the longest known part of ``path``."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def where(self, path: tuple[str, ...]) -> str:
        """How a key path is written in a message."""
        return ".".join(path)

    def placed(self, path: tuple[str, ...], text: str) -> str:
        """A message with its place before it."""
        where = self.where(path)
        return f"{self.name}:{self.line(path)}: {where + ': ' if where else ''}{text}"

    def problem(self, path: tuple[str, ...], text: str) -> None:
        """Remember one problem."""
        self.problems.append(self.placed(path, text))


def kind_of(node: yaml.Node) -> str:
    """What a value is by YAML's own names, as it says or as it looks."""
    return str(node.tag).removeprefix(TAG)


def parsed(text: str) -> tuple[yaml.Node | None, Any]:
    """One YAML document: its nodes, which know their lines, and its values.

    Raises:
        yaml.YAMLError: it is none.
    """
    loader = PlainLoader(text)
    try:
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()
