"""`release`: one archive of exactly what was judged, if it passes as a release. No torch, no DVC."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compression_gate import __version__
from compression_gate.errors import CompressionGateError, ParamsError, ReleaseError
from compression_gate.records.artifact import FILE_NAME, Artifact
from compression_gate.records.base import refuse_folder
from compression_gate.records.metrics import CompressionRecord, DataRecord
from compression_gate.records.recipe import Recipe
from compression_gate.records.release_name import EXPECTED, NAME
from compression_gate.records.verdict import Verdict
from compression_gate.records.waivers import FILE_NAME as WAIVERS_FILE
from compression_gate.release import bundle
from compression_gate.release.card import card_of
from compression_gate.release.manifest import MANIFEST, SUMS, Manifest, entry_of, sums_of
from compression_gate.reporters import html, markdown, wording
from compression_gate.reporters.base import Findings
from compression_gate.stages.check import Outcome, check
from compression_gate.stages.report import optional, read_findings, with_samples

POLICY = "release"
CANDIDATE = Path("models/candidate")


def run(suite: Path, name: str, output: Path | None = None) -> tuple[Path, Manifest]:
    """Write the archive, read it back, and return where it lies and what is in it.

    Args:
        suite: its folder.
        name: of the release.
        output: the file; `releases/<suite>-<name>.tar` in the suite if not said.

    Raises:
        ParamsError: the name is none, the output is a folder, or the params are wrong.
        ReleaseError: the verdict does not pass, or does not speak of these files; ends with the verdict's code.
    """
    if not NAME.fullmatch(name):
        raise ParamsError(f"release: expected {EXPECTED}, got {name!r}")
    refuse_folder(output)
    outcome = check(suite, POLICY)
    verdict = passing(outcome)
    folder = f"{suite.resolve().name}-{name}"
    contents, artifact = contents_of(suite, verdict, name)
    models = {f"model/{file}": file for file in artifact.shipped}
    files = {path: entry_of(content) for path, content in contents.items()}
    files |= {path: artifact.files[file] for path, file in models.items()}
    manifest = Manifest(
        suite=suite.resolve().name,
        name=name,
        commit=verdict.candidate.commit,
        package_version=__version__,
        candidate_digest=artifact.digest,
        recipe_digest=artifact.recipe_digest,
        shipped=artifact.shipped,
        runtime=artifact.runtime,
        verdict="pass",
        files=dict(sorted(files.items())),
    )
    contents[MANIFEST] = manifest.as_text().encode()
    contents[SUMS] = sums_of(files | {MANIFEST: entry_of(contents[MANIFEST])}).encode()
    path = output or suite / "releases" / f"{folder}.tar"
    bundle.write(path, contents | {path: suite / CANDIDATE / file for path, file in models.items()}, folder)
    return path, manifest


def passing(outcome: Outcome) -> Verdict:
    """The verdict, if it passes as a release and is of the files on disk.

    Raises:
        ReleaseError: what stops it, and what to do.
    """
    verdict = outcome.verdict
    if verdict is None or outcome.problems:
        problems = "\n".join(f"  {problem}" for problem in outcome.problems)
        raise ReleaseError(
            f"not released: the verdict cannot be believed:\n{problems}\n  do: compression-gate run --policy {POLICY}",
            outcome.exit_code or 4,
        )
    if outcome.status != "pass":
        blocking = outcome.decision.blocking if outcome.decision else ()
        lines = "\n".join(f"  {wording.name_of(one)}: {one.status}: {wording.step_for(one)}" for one in blocking)
        raise ReleaseError(
            f"not released: expected a verdict that passes under the policy {POLICY}, got {outcome.status}:\n{lines}",
            outcome.exit_code,
        )
    if not any(one.status == "pass" and one.level == "block" for one in verdict.checks):
        raise ReleaseError("not released: no rule was judged, so nothing passed: write rules under gate in params.yaml")
    return verdict


def contents_of(suite: Path, verdict: Verdict, name: str) -> tuple[dict[str, bytes], Artifact]:
    """Every file of the archive but its manifest, its sums and the model's own, and the artifact that ships.

    Raises:
        ReleaseError: a file is gone, or changed since its judgement.
    """
    try:
        artifact = Artifact.open(suite / CANDIDATE)
        compression = CompressionRecord.read(suite / "reports/compression.json")
    except CompressionGateError as error:
        raise ReleaseError(f"not released: {error}") from error
    findings = shown(suite, verdict)
    data = optional(DataRecord, suite / "reports/data.json")
    texts = {
        "verdict.json": verdict.as_text(),
        "recipe.yaml": recipe_of(compression, artifact),
        "report.md": markdown.rendered(findings),
        "report.html": html.rendered(findings),
        "MODEL_CARD.md": card_of(findings, artifact, data, name),
    }
    contents = {path: text.encode() for path, text in texts.items()}
    contents["params.yaml"] = taken(suite / "params.yaml")
    if (suite / WAIVERS_FILE).is_file():
        contents[WAIVERS_FILE] = taken(suite / WAIVERS_FILE)
    contents[f"model/{FILE_NAME}"] = taken(suite / CANDIDATE / FILE_NAME)
    if artifact.digest != verdict.candidate.digest:
        raise ReleaseError(f"not released: {suite / CANDIDATE}: expected the candidate that was judged, got another")
    return contents, artifact


def shown(suite: Path, verdict: Verdict) -> Findings:
    """What the report shows, as judged under the policy; ages of waivers are left out, or bytes would change daily."""
    return replace(with_samples(read_findings(suite), suite), verdict=verdict, today=None)


def recipe_of(compression: CompressionRecord, artifact: Artifact) -> str:
    """The steps as they were carried out, every option filled in, in a file that `compress.recipe` may name.

    Raises:
        ReleaseError: they are not the ones that the artifact was made by.
    """
    recipe = Recipe.model_validate({"steps": [{"method": step.method, **step.options} for step in compression.steps]})
    if compression.recipe_digest != artifact.recipe_digest:
        raise ReleaseError("not released: reports/compression.json is of another candidate: compression-gate run")
    return recipe.as_text()


def taken(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        ReleaseError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReleaseError(f"not released: {path}: cannot be read: {error}") from error
