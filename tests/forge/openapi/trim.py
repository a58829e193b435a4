"""Cut the operations that the poster uses from GitHub's OpenAPI text: `python trim.py api.github.com.json`."""

import json
import re
import sys
from pathlib import Path
from typing import Any

OPERATIONS = {
    "/repos/{owner}/{repo}/issues/{issue_number}/comments": ("get", "post"),
    "/repos/{owner}/{repo}/issues/comments/{comment_id}": ("get", "patch"),
    "/repos/{owner}/{repo}/check-runs": ("post",),
    "/repos/{owner}/{repo}/check-runs/{check_run_id}": ("patch",),
    "/repos/{owner}/{repo}/commits/{ref}/check-runs": ("get",),
    "/repos/{owner}/{repo}/pulls": ("get",),
    "/repos/{owner}/{repo}/actions/runs/{run_id}/artifacts": ("get",),
    "/repos/{owner}/{repo}/actions/artifacts/{artifact_id}/{archive_format}": ("get",),
}
PROSE = {"description", "example", "examples", "externalDocs", "x-github", "tags", "summary", "operationId"}


def bare(value: Any, *, names: bool = False) -> Any:
    """A value without prose; the keys of ``properties`` are names, and stay whatever they are called."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: bare(one, names=key in ("properties", "schemas", "parameters", "responses", "headers"))
        for key, one in value.items()
        if names or key not in PROSE
    }


def referred(value: Any) -> set[str]:
    """Every reference inside a value."""
    return set(re.findall(r'"\$ref": ?"#/components/([^"]+)"', json.dumps(value)))


def trimmed(whole: dict[str, Any]) -> dict[str, Any]:
    """The text with the operations above and what they refer to."""
    paths = {path: {verb: whole["paths"][path][verb] for verb in verbs} for path, verbs in OPERATIONS.items()}
    components: dict[str, dict[str, Any]] = {}
    open_ = referred(bare(paths, names=True))
    while open_:
        kind, _, name = open_.pop().partition("/")
        if name not in components.setdefault(kind, {}):
            components[kind][name] = bare(whole["components"][kind][name])
            open_ |= referred(components[kind][name])
    info = {key: whole["info"][key] for key in ("title", "version", "license")}
    kept = {kind: dict(sorted(ones.items())) for kind, ones in sorted(components.items())}
    return {"openapi": whole["openapi"], "info": info, "paths": bare(paths, names=True), "components": kept}


if __name__ == "__main__":
    text = trimmed(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    out = json.dumps(text, indent=1, sort_keys=True) + "\n"
    Path(__file__).with_name("github.json").write_text(out, encoding="utf-8")
