"""A YAML file of the user's: its values, and the line of every key path, so that a problem can be told by place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from compression_gate.errors import ParamsError


class TextDates(yaml.SafeLoader):
    """YAML whose dates stay as they were written: a day that the calendar lacks is then a value to complain of."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


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
            node = yaml.compose(text, Loader=TextDates)
            self.values = values_of(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ParamsError(f"{name}:{line}: not YAML: {error.problem}: mend the indentation or quotes") from error
        except yaml.YAMLError as error:
            raise ParamsError(f"{name}:1: not YAML: {str(error).splitlines()[0]}") from error
        except ValueError as error:  # of a value that says its own type, and of numbers of thousands of digits
            raise ParamsError(f"{name}:1: not YAML: a value is not of its kind: {error}: write it otherwise") from error
        if node is not None:
            self.walk(node, ())

    def walk(self, node: yaml.Node, path: tuple[str, ...], around: tuple[yaml.Node, ...] = ()) -> None:
        """Note the line of every key, and every key that is there twice.

        Raises:
            ParamsError: an alias inside of what it stands for.
        """
        if any(node is outer for outer in around):
            line = node.start_mark.line + 1
            raise ParamsError(f"{self.name}:{line}: {'.'.join(path)}: holds itself: write the value out")
        around = (*around, node)
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                here = (*path, str(key.value))
                self.lines[here] = key.start_mark.line + 1
                if key.value in seen:
                    self.problem(here, "is written twice: the last would win silently; remove one")
                seen.add(key.value)
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

    def problem(self, path: tuple[str, ...], text: str) -> None:
        """Remember one problem."""
        where = self.where(path)
        self.problems.append(f"{self.name}:{self.line(path)}: {where + ': ' if where else ''}{text}")


def values_of(text: str) -> Any:
    """The values of one YAML document; dates are text."""
    loader = TextDates(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
