"""`selftest --gate`: hold the gate to its own numbers, on this machine and with this very installation."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from compression_gate.errors import CompressionGateError
from compression_gate.gate.policy import DEFAULT_POLICY
from compression_gate.pipeline.state import remove_outputs
from compression_gate.progress import tracked
from compression_gate.records.selftest import Damage, SelfTest
from compression_gate.selftest import enumeration, replays
from compression_gate.selftest.finished_run import write_recorded
from compression_gate.selftest.mutations import JUDGED_ANEW, MUTATIONS, Mutation
from compression_gate.stages import check, gate

CRASHED = 4
Call = Callable[[str, Path], tuple[int, str]]


def run(*, full: bool = False) -> SelfTest:
    """Enumerate, replay, mutate; nothing outside a temporary folder is touched.

    Args:
        full: so many replays that the claims are proven where they hold, which takes minutes.
    """
    start = time.perf_counter()
    claims = [*enumeration.claims(), *replays.claims(full=full)]
    return SelfTest(
        full=full,
        claims=tuple(claims),
        mutations=mutated(),
        left_out={name: one.needs for name, one in MUTATIONS.items() if one.needs},
        seconds=time.perf_counter() - start,
    )


def mutated() -> tuple[Damage, ...]:
    """Do every mutation that needs nothing but files to a copy of one finished run."""
    chosen = {name: one for name, one in MUTATIONS.items() if not one.needs}
    with tempfile.TemporaryDirectory(prefix="compression-gate-") as folder:
        sound = write_recorded(Path(folder) / "sound")
        verdict = gate.run(sound)
        assert verdict.exit_code == 0, f"expected a run that passes to begin with, got {verdict.status}"
        found = []
        for name, mutation in tracked(chosen.items(), len(chosen), "mutations"):
            copy = Path(shutil.copytree(sound, Path(folder) / "copy", symlinks=True))
            found.append(damaged(name, mutation, copy))
            shutil.rmtree(copy)
    return tuple(found)


def damaged(name: str, mutation: Mutation, suite: Path, call: Call | None = None) -> Damage:
    """Damage a judged suite, call the words, and write down how they ended.

    Args:
        name: of the mutation. mutation: what to do. suite: a copy that may be damaged.
        call: (word, suite) -> exit code and what was said; None: :func:`called`, which knows `gate` and `check`.
    """
    call = call or called
    mutation.change(suite)
    stale = call("check", suite)[0] if mutation.bound and mutation.words == JUDGED_ANEW else None
    ends = [(word, *call(word, suite)) for word in mutation.words]
    silent = any(code == 0 for word, code, _ in ends if word != "gate")
    code, said = 0 if silent else ends[-1][1], "".join(told for _, _, told in ends)
    return Damage(
        name=name,
        entry=mutation.entry,
        exit_code=code,
        expected_code=mutation.exit_code,
        expected=mutation.expected,
        said=said,
        stale_code=stale,
    )


def called(word: str, suite: Path) -> tuple[int, str]:
    """Call `gate` or `check` as the command line does: (exit code, everything that was said)."""
    try:
        if word == "gate":
            gate.run(suite)
            return 0, ""
        return checked(suite)
    except CompressionGateError as error:
        if error.exit_code == CRASHED:
            remove_outputs(suite, word)
        return error.exit_code, f"{error}\n"
    except Exception as error:  # noqa: BLE001  # whatever a damaged file raises ends as "could not judge"
        if word == "gate":
            remove_outputs(suite, word)
        return CRASHED, f"{type(error).__name__}: {error}\n"


def checked(suite: Path) -> tuple[int, str]:
    """The exit code of `check`, and why."""
    outcome = check.check(suite, DEFAULT_POLICY)
    failing = [one for one in outcome.decision.checks if one.status == "error"] if outcome.decision else []
    lines = [*outcome.problems, *(f"{one.reason}: {one.message}" for one in failing)]
    return outcome.exit_code, "".join(f"{line}\n" for line in lines)
