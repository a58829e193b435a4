"""What every record shares: frozen, strict about unknown fields, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from compression_gate.errors import MetricsError, ParamsError


class Record(BaseModel):
    """A frozen record that can be written to a file and is validated when it is read back."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate.

        Raises:
            MetricsError: the file is missing, cut short, or not such a record.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise MetricsError(f"{path}: missing: run the stage that writes it, or `compression-gate run`") from error
        except (OSError, UnicodeDecodeError) as error:
            raise MetricsError(f"{path}: cannot be read: {error}") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole file"
            raise MetricsError(
                f"{path}: {where}: {first['msg']}: the file is damaged or of another version; delete it and run again"
            ) from error

    def as_text(self) -> str:
        """The record as JSON, as its file holds it."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False) + "\n"

    def write(self, path: Path) -> None:
        """Write as JSON under a temporary name, then rename."""
        write_text(path, self.as_text())


def refuse_folder(output: Path | None) -> None:
    """Refuse a folder where the option `-o` names a file.

    Raises:
        ParamsError: it is one.
    """
    if output is not None and output.is_dir():
        raise ParamsError(f"-o: expected a file, got the folder {output}: name a file in it")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its name when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` so that a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as :func:`write_bytes` does; line ends are the same on every system."""
    write_bytes(path, text.encode())


def write_if_changed(path: Path, content: bytes) -> None:
    """Write only what differs, so that time stamps do not make DVC hash again."""
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def finite(value: float) -> float | None:
    """Return ``value``, or None where it is NaN or infinite (JSON has neither)."""
    return float(value) if math.isfinite(value) else None


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that takes its place when the block ends well, and vanishes otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
