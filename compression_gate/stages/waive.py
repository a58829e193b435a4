"""`waive`: one more waiver at the end of `waivers.yaml`; what stands there stays as it is, byte for byte."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from compression_gate.errors import ParamsError
from compression_gate.records.base import write_bytes
from compression_gate.records.history import releases_of
from compression_gate.records.lock import locked
from compression_gate.records.params import Params, read_params
from compression_gate.records.state_files import STATE
from compression_gate.records.waivers import FILE_NAME, day_of, problems_of, read_waivers, today_utc

LOCK, PATIENCE_S = f"{STATE}/waivers.lock", 10.0  # another waiver is written in milliseconds
END = re.compile(r"^\.\.\.(?=\s|$)", flags=re.MULTILINE)  # of a YAML document, where it is said
NULL = "tag:yaml.org,2002:null"
OPTIONS = {"rule": "RULE"}  # the one that is written without dashes


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user said on the command line: ``ceiling`` as typed, a number or a share like ``8%``."""

    rule: str
    ceiling: str
    reason: str
    expires: str
    slice: str | None = None
    owner: str | None = None
    release: bool = False


def run(suite: Path, request: Request) -> Path:
    """Append a waiver of today to the suite's `waivers.yaml`, and return its path.

    Raises:
        ParamsError: the waiver, or one that is there already, is wrong; the file is as it was then.
        MetricsError: `.compression_gate/history.json` is damaged.
    """
    params, today = read_params(suite), today_utc()
    releases = releases_of(suite)
    entry = entry_of(request, request.owner or git_user(suite), today)
    if problems := list(problems_of(as_text(entry), params, today=today, releases=releases)):
        raise ParamsError(f"waive: {OPTIONS.get(key, f'--{key}')}: {text}" for key, text in problems)
    path = (suite / FILE_NAME).resolve()
    with locked(suite / LOCK, held=f"{FILE_NAME}: is being written", do="try again", patience_s=PATIENCE_S):
        content = appended(path.read_bytes() if path.exists() else b"", entry)
        check_whole(content, params, today, releases)
        write_bytes(path, content)
    return suite / FILE_NAME


def git_user(suite: Path) -> str:
    """The name that git signs commits with.

    Raises:
        ParamsError: git knows none, or is not there.
    """
    try:
        command = ["git", "-C", str(suite), "config", "user.name"]
        name = subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout.strip()
    except OSError:  # no git on this machine
        name = ""
    if not name:
        raise ParamsError("waive: --owner: expected a name, got none, and git has no user.name: give --owner NAME")
    return name


def entry_of(request: Request, owner: str, today: date) -> dict[str, Any]:
    """The waiver as it is written: dates as dates, numbers as numbers, nothing that is a default."""
    return {
        "rule": request.rule,
        **({"slice": request.slice} if request.slice is not None else {}),
        "ceiling": number_of(request.ceiling),
        "reason": " ".join(request.reason.split()),
        "owner": owner.strip(),
        "expires": day_of(request.expires) or request.expires.strip(),
        **({"release": True} if request.release else {}),
        "since": today,
    }


def number_of(text: str) -> int | float | str:
    """The number that was typed, or the text where it is none."""
    try:
        value = float(text)
    except ValueError:
        return text.strip()
    return int(value) if value.is_integer() and "." not in text else value


def as_text(entry: dict[str, Any]) -> dict[str, Any]:
    """The waiver as it is read back: dates are text."""
    return {key: str(value) if isinstance(value, date) else value for key, value in entry.items()}


def appended(old: bytes, entry: dict[str, Any]) -> bytes:
    """Put a waiver behind the last one, indented as the others are.

    Raises:
        ParamsError: the file is no list of lines, so that nothing can be put behind it.
    """
    try:
        text = old.decode("utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{FILE_NAME}: cannot be read as YAML: {error}: mend it first") from error
    indent = 0
    if isinstance(root, yaml.SequenceNode) and not root.flow_style:
        indent = root.start_mark.column
    elif root is not None and (root.tag == NULL or (isinstance(root, yaml.SequenceNode) and not root.value)):
        # An empty list has no other form than `[]`.
        text = text[: root.start_mark.index] + text[root.end_mark.index :].lstrip(" ")
    elif root is not None:
        raise ParamsError(
            f"{FILE_NAME}:{root.start_mark.line + 1}: expected waivers that begin with '- ', each on lines of its own, "
            f"got another form: write it so, or add this one by hand:\n{lines_of(entry)}"
        )
    newline = "\r\n" if "\r\n" in text else "\n"
    end = match.start() if (match := END.search(text)) else len(text)
    gap = newline if text.strip() and not text[:end].endswith("\n") else ""
    added = "".join(" " * indent + line + newline for line in lines_of(entry).splitlines())
    return (text[:end] + gap + added + text[end:]).encode()


def lines_of(entry: dict[str, Any]) -> str:
    """A list of this one waiver, as YAML."""
    return yaml.safe_dump([entry], sort_keys=False, allow_unicode=True, width=10_000)


def check_whole(content: bytes, params: Params, today: date, releases: tuple[str, ...]) -> None:
    """Read the new file as the gate will, before it takes the old one's place.

    Raises:
        ParamsError: it holds a waiver that is wrong, has expired, or says again what another says.
    """
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as name:
        (Path(name) / FILE_NAME).write_bytes(content)
        read_waivers(Path(name), params, today=today, releases=releases)
