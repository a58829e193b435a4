"""What one job hands to another that may post: a verdict with what its report needs, and no single example."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from compression_gate.records.base import Record
from compression_gate.records.metrics import Benchmark, CompressionRecord, CurvePoint, Evaluation
from compression_gate.records.params import Params
from compression_gate.records.policies import policy_problems
from compression_gate.records.rules import rule_problems
from compression_gate.records.sensitivity import SensitivityTable
from compression_gate.records.verdict import Verdict

MOST_ADOPTIONS, LONGEST_ADOPTION = 8, 1000  # sentences, and characters of one
SUITE_NAME = re.compile(r"[\w][\w .+-]{0,99}")


def suite_name(value: str) -> str:
    """Accept what a folder is called: letters, digits, and few signs that mean nothing anywhere."""
    if not SUITE_NAME.fullmatch(value):
        raise ValueError("expected a suite's name: letters, digits, spaces and . + - _, at most 100")
    return value


def inner_folder(value: str) -> str:
    """Accept a folder inside of a repository only."""
    path = PurePosixPath(value)
    if len(value) > 500 or path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[\w ./+-]+", value):
        raise ValueError("expected a folder below the repository's root")
    return value


SuiteName = Annotated[str, AfterValidator(suite_name)]
InnerFolder = Annotated[str, AfterValidator(inner_folder)]


class Upload(Record):
    """One suite's verdict and records, in one file.

    Whoever reads it trusts nothing in it: another may have written it. What it says of itself must agree.

    Args:
        folder: of the suite, from the repository's root.
        params: all of them, resolved, as their digest in the verdict is reckoned from.
        problems: why the verdict may not be believed, as `check` found them.
        rule_lines: rule -> its line in `params.yaml`.
        adoptions: where the gate fails, recipes of searches that would do, each in a sentence.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    suite: SuiteName
    folder: InnerFolder = "."
    params: dict[str, Any]
    verdict: Verdict
    problems: tuple[str, ...] = ()
    rule_lines: dict[str, int] = {}
    compression: CompressionRecord | None = None
    evaluation: Evaluation | None = None
    benchmark: Benchmark | None = None
    training: tuple[CurvePoint, ...] = ()
    sensitivity: SensitivityTable | None = None
    adoptions: tuple[Annotated[str, Field(max_length=LONGEST_ADOPTION)], ...] = Field((), max_length=MOST_ADOPTIONS)

    @model_validator(mode="after")
    def params_can_be_read(self) -> Upload:
        """Params are params, and their rules have what the code that shows them asks for."""
        params = self.read_params()
        found = [
            f"gate.rules.{name}: {text}"
            for name, rule in params.gate.rules.items()
            for _, text in rule_problems(name, rule, params.task.kind)
        ]
        found += [f"gate.policies.{'.'.join(path)}: {text}" for path, text in policy_problems(params.gate.policies)]
        if found:
            raise ValueError(found[0])
        return self

    def read_params(self) -> Params:
        """The params, validated."""
        return Params.model_validate_json(json.dumps(self.params))


class Posted(Record):
    """What `post` did for one suite.

    Args:
        status, exit_code: of what was posted; the exit code of `post` itself does not depend on them.
        comment, check_run: what became of them, in a word or a few.
        annotations: how many lines were annotated.
        warnings: what the forge refused or did not answer.
        sent: what was sent, or under ``--dry-run`` would have been.
    """

    suite: str
    status: str
    exit_code: int
    comment: str
    check_run: str
    annotations: int = 0
    warnings: tuple[str, ...] = ()
    sent: dict[str, Any] = {}
