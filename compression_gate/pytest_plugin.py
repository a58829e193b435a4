"""``pytest --compression-gate``: every check of the verdict is a test, beside the user's own.

Off unless asked for. Nothing is imported at the top but pytest, which is running already: a session that does not ask
pays for reading this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import numpy as np

    from compression_gate.records.artifact import Artifact
    from compression_gate.records.verdict import Check, Verdict
    from compression_gate.stages.check import Outcome

NAME = "compression-gate"
VERDICT = "reports/verdict.json"
POLICIES = ("pull_request", "release")
OUTCOME = pytest.StashKey["Outcome"]()


class GateFailedError(Exception):
    """A check or a verdict that fails; the text says all there is to say, a traceback would add nothing."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup(NAME, "the verdict of compression-gate")
    group.addoption(
        "--compression-gate",
        nargs="?",
        const=VERDICT,
        metavar="VERDICT",
        help=f"run every check of a suite's verdict as a test; the file is {VERDICT} unless given as =FILE",
    )
    group.addoption(
        "--compression-gate-policy",
        choices=POLICIES,
        default=POLICIES[0],
        help="what blocks: a pull request's rules (default), or a release's",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what cannot be a verdict before anything is collected.

    Raises:
        pytest.UsageError: the option swallowed a path of tests, or names another file.
    """
    given = config.getoption("compression_gate")
    if given is not None and Path(given).parts[-2:] != Path(VERDICT).parts:
        raise pytest.UsageError(
            f"--compression-gate: expected a suite's {VERDICT}, got {given!r}: write --compression-gate=FILE, or put "
            "the option behind the paths of your tests"
        )


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say which verdict and which policy."""
    given = config.getoption("compression_gate")
    return f"{NAME}: {given}, policy {config.getoption('compression_gate_policy')}" if given else None


@pytest.hookimpl(tryfirst=True)  # before -k, -m and --deselect, which then hold for these items too
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the checks behind the user's own tests, whatever paths were asked for."""
    if (suite := suite_of(config)) is not None:
        collector = VerdictCollector.from_parent(session, name=NAME, nodeid=NAME, path=suite / VERDICT)
        items.extend(session.genitems(collector))


def suite_of(config: pytest.Config) -> Path | None:
    """The folder above `reports/`, or None where nothing was asked for."""
    given = config.getoption("compression_gate")
    return None if given is None else (config.invocation_params.dir / given).parents[1]


def outcome_of(config: pytest.Config, suite: Path) -> Outcome:
    """What `compression-gate check` finds, once a session.

    Raises:
        ParamsError: `params.yaml` or `waivers.yaml` is wrong.
    """
    from compression_gate.stages.check import check

    if OUTCOME not in config.stash:
        config.stash[OUTCOME] = check(suite, config.getoption("compression_gate_policy"))
    return config.stash[OUTCOME]


class VerdictCollector(pytest.Collector):
    """The verdict: an item a check, and one for the verdict as a whole."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the items; there is always one.

        Raises:
            CollectError: the params are wrong, so that not even the rules are known.
        """
        from compression_gate.errors import ParamsError

        try:
            outcome = outcome_of(self.config, self.path.parents[1])
        except ParamsError as error:
            raise self.CollectError(str(error)) from error
        for name, fault, mark in (*told_checks(outcome), ("verdict", verdict_fault(outcome), None)):
            yield GateItem.from_parent(self, name=name, fault=fault, mark=mark)


class GateItem(pytest.Item):
    """A check, or the verdict as a whole.

    Args:
        fault: what it fails with; None if it passes.
        mark: skip or xfail, with the reason, where the policy lets a check be that does not pass.
    """

    def __init__(self, *, fault: str | None, mark: pytest.MarkDecorator | None, **node: Any) -> None:
        super().__init__(**node)
        self.fault = fault
        if mark is not None:
            self.add_marker(mark)

    def runtest(self) -> None:
        """Raise the fault.

        Raises:
            GateFailedError: there is one.
        """
        if self.fault is not None:
            raise GateFailedError(self.fault)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **options: Any) -> Any:
        """The fault's text as it is; anything else as pytest shows it."""
        if isinstance(excinfo.value, GateFailedError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args, **options)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The verdict's file, and the item's name."""
        return self.path, 0, self.name


Told = tuple[str, str | None, "pytest.MarkDecorator | None"]  # an item's name, fault and mark


def told_checks(outcome: Outcome) -> Iterator[Told]:
    """Every check; every rule, failing, where no verdict can be read, so that `-k` never selects an empty green."""
    if outcome.verdict is None:
        for rule in outcome.params.gate.rules:
            yield rule, f"no verdict: {outcome.problems[0]}", None
        return
    blocking = outcome.decision.blocking if outcome.decision else ()
    for check in outcome.verdict.checks:
        if outcome.problems:
            yield name_of(check), f"was judged {check.status}, and is not to be believed: {outcome.problems[0]}", None
        else:
            yield name_of(check), check_fault(check), None if check in blocking else lenience(check)


def lenience(check: Check) -> pytest.MarkDecorator | None:
    """How a check that neither passes nor blocks is shown.

    A limit that is broken was judged to its end, and is known: ``xfail``, which ``--runxfail`` makes a failure. What
    could not be judged to its end, and what a waiver covers: ``skip``.
    """
    if check.status == "pass":
        return None
    reason = "; ".join(filter(None, (headline(check), settled_by(check), check.message, check.mending)))
    return pytest.mark.xfail(reason=reason) if check.status == "fail" else pytest.mark.skip(reason=reason)


def check_fault(check: Check) -> str | None:
    """What a check fails with: its figures, the limit, what was found, what to do; None if it passes."""
    if check.status == "pass":
        return None
    rows = {
        "observed": figure(check.observed),
        f"{check.against or 'compared'}": figure(check.compared_to),
        "change": figure(check.change),
        "interval": " to ".join(figure(end) or "unbounded" for end in check.interval) if check.interval else None,
        "limit": ", ".join(filter(None, (check.limit, named("allowed", check.allowed), named("over by", over(check))))),
        "n": f"{check.n:,}" if check.n is not None else None,
        "more": settled_by(check),
        "found": check.message,
        "mend": check.mending,
    }
    return "\n".join((headline(check), *(f"  {label:<10} {value}" for label, value in rows.items() if value)))


def headline(check: Check) -> str:
    """``fail: change -0.02 against reference, limit max_drop 0.01``; of a waived check, the waiver."""
    if check.status == "waived" and check.waiver is not None:
        from compression_gate.gate.waivers import line_of
        from compression_gate.records.waivers import today_utc

        return f"waived: {line_of(check.waiver, today_utc())}"
    status = f"{check.status}, {check.reason}" if check.reason else check.status
    seen = named("change", check.change) or named("observed", check.observed)
    if seen and check.against:
        seen = f"{seen} against {check.against}"
    return ": ".join(filter(None, (status, ", limit ".join(filter(None, (seen, check.limit))))))


def name_of(check: Check) -> str:
    """``rule``, or ``rule[slice]``."""
    return f"{check.rule}[{check.slice}]" if check.slice else check.rule


def settled_by(check: Check) -> str | None:
    """How many examples would settle an undecided check, where that is known."""
    return None if check.settled_by is None else f"about {check.settled_by:,} examples would settle it"


def over(check: Check) -> float | None:
    """How far a figure is outside its limit; None inside."""
    return -check.headroom if check.headroom is not None and check.headroom < 0 else None


def named(label: str, value: float | None) -> str | None:
    """A figure with its name, or None where there is none."""
    return None if value is None else f"{label} {figure(value)}"


def figure(value: float | None) -> str | None:
    """A figure in at most six digits; bytes and counts whole."""
    if value is None:
        return None
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:.6g}"


def verdict_fault(outcome: Outcome) -> str | None:
    """Why the verdict as a whole is not green; None if it is."""
    if outcome.problems:
        return "not to be believed: " + "\n  ".join((*outcome.problems, "mend it with `compression-gate run`"))
    if outcome.exit_code == 0:
        return None
    checks = outcome.decision.blocking if outcome.decision else ()
    return "\n  ".join(
        (
            f"{outcome.status}, exit code {outcome.exit_code}, policy {outcome.policy}",
            *(f"{name_of(check)}: {headline(check)}" for check in checks),
        )
    )


class ShippedModel:
    """A model as it ships: the exported file, loaded by the runtime of ``compress.runtime`` as `evaluate` loads it.

    Of a coded candidate it is the file that comes out of ``model.cgz``.

    Call it with inputs as the data set gives them (a normalisation that was trained in is in the file), in a batch: an
    array or tensor ``(N, …)``, a tuple of them, or a dict by the model's own names. It returns an array ``(N, …)``,
    float32. ``artifact`` holds its bytes, digest and counts, ``path`` is the file.
    """

    def __init__(self, session: Any, artifact: Artifact, path: Path) -> None:
        self.session = session
        self.artifact = artifact
        self.path = path

    def __call__(self, inputs: Any) -> np.ndarray:
        """Return the outputs ``(N, …)``."""
        output: np.ndarray = self.session({name: as_array(value) for name, value in by_name(inputs)})
        return output


def by_name(inputs: Any) -> Iterable[tuple[str, Any]]:
    """Inputs under the names that an exported file gives them."""
    if isinstance(inputs, Mapping):
        return inputs.items()
    if isinstance(inputs, (tuple, list)):
        return ((f"input_{index}", value) for index, value in enumerate(inputs))
    return (("input", inputs),)


def as_array(value: Any) -> np.ndarray:
    """An array of an array, or of a tensor on any device."""
    import numpy as np

    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def shipped(config: pytest.Config, role: str) -> ShippedModel:
    """Load a role's file; a test that cannot have it fails with the reason, and is skipped where nothing was asked."""
    suite = asked_suite(config)  # before anything is imported: a test that is skipped costs nothing
    from compression_gate import registry
    from compression_gate.errors import CompressionGateError
    from compression_gate.records.artifact import Artifact
    from compression_gate.records.params import read_params
    from compression_gate.runtimes import RUNTIMES

    folder = suite / "models" / role
    try:
        params = read_params(suite)
        runtime = registry.load("runtimes", params.compress.runtime, RUNTIMES)()
        artifact = Artifact.open(folder)
        path = folder / runtime.file_name
        if artifact.format == "coded":
            from compression_gate.artifacts.decoding import decoded

            path = decoded(suite, artifact, folder, params)
        return ShippedModel(runtime.load(path, params.benchmark.threads), artifact, path)
    except CompressionGateError as error:
        pytest.fail(f"{role}_model: {error}", pytrace=False)


def asked_suite(config: pytest.Config) -> Path:
    """The suite that was asked for; a test is skipped where none was."""
    if (suite := suite_of(config)) is None:
        pytest.skip("needs a suite: pytest --compression-gate")
    return suite


@pytest.fixture(scope="session")
def compression_verdict(pytestconfig: pytest.Config) -> Verdict:
    """The verdict under the policy of this session; fails where it cannot be believed, skips without the option."""
    suite = asked_suite(pytestconfig)
    from compression_gate.errors import ParamsError

    try:
        outcome = outcome_of(pytestconfig, suite)
    except ParamsError as error:
        pytest.fail(str(error), pytrace=False)
    if outcome.problems or outcome.verdict is None:
        pytest.fail(str(verdict_fault(outcome)), pytrace=False)
    return outcome.verdict


@pytest.fixture(scope="session")
def reference_model(pytestconfig: pytest.Config) -> ShippedModel:
    """The uncompressed model's exported file, ready to be called with a batch; skips without --compression-gate."""
    return shipped(pytestconfig, "reference")


@pytest.fixture(scope="session")
def candidate_model(pytestconfig: pytest.Config) -> ShippedModel:
    """The compressed model's exported file, ready to be called with a batch; skips without --compression-gate."""
    return shipped(pytestconfig, "candidate")
