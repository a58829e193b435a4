"""GitHub's REST API as far as `post` uses it: stateful, on a loopback port, every request held to GitHub's own text.

The text is `tests/forge/openapi/github.json`; replies are held to it too. What is beyond it, and known from GitHub's
prose alone, is here: a comment has at most 65,536 characters, a check run's texts 65,535, a request 50 annotations; a
token that only reads gets 403.

Run as a script it serves until it is ended, and writes what it holds to a file after every request:
`python tests/support/fake_github.py --port 8787 --state state.json`.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from openapi_schema_validator import OAS30Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

TEXT = Path(__file__).parents[1] / "forge/openapi/github.json"
LONGEST_COMMENT, LONGEST_TEXT, MOST_ANNOTATIONS = 65_536, 65_535, 50
STAMP = "2026-11-22T12:00:00Z"
READ_ONLY = "Resource not accessible by integration"


@cache
def text() -> dict[str, Any]:
    """GitHub's own text.

    Where it calls a choice of words nullable, null is one of them: OpenAPI 3.0.3 wants it listed, the text does not.
    """
    return json.loads(TEXT.read_text(encoding="utf-8"), object_hook=with_null)


def with_null(value: dict[str, Any]) -> dict[str, Any]:
    """A schema whose choice of words has null where it may be null."""
    if value.get("nullable") and isinstance(value.get("enum"), list) and None not in value["enum"]:
        value["enum"].append(None)
    return value


@cache
def registry() -> Registry:
    """Where references lead."""
    return Registry().with_resource("urn:github", Resource(contents=text(), specification=DRAFT4))


def absolute(value: Any) -> Any:
    """A part of the text whose references lead to the whole of it."""
    if isinstance(value, list):
        return [absolute(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: one.replace("#/", "urn:github#/", 1) if key == "$ref" and isinstance(one, str) else absolute(one)
        for key, one in value.items()
    }


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    while "$ref" in value:
        place: Any = text()
        for part in value["$ref"].partition("#/")[2].split("/"):
            place = place[part]
        value = place
    return value


def problems_of(schema: dict[str, Any], value: Any) -> list[str]:
    """What in a value the schema does not allow."""
    found = OAS30Validator(absolute(schema), registry=registry()).iter_errors(value)
    return [f"{'/'.join(map(str, one.absolute_path))}: {one.message[:200]}" for one in found]


def filled(schema: dict[str, Any], given: Any = None) -> Any:
    """The smallest value that a schema allows, with the parts that were given."""
    schema = resolved(schema)
    if given is not None and not isinstance(given, dict):
        return given
    parts = schema.get("allOf") or schema.get("anyOf") or schema.get("oneOf")
    if parts and "type" not in schema:
        return filled(parts[0], given)
    if given is None and schema.get("nullable"):
        return None
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        given, known = given or {}, schema.get("properties", {})
        names = [*schema.get("required", ()), *(name for name in given if name in known)]
        return {**given, **{name: filled(known.get(name, {}), given.get(name)) for name in dict.fromkeys(names)}}
    simple: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": False, "array": []}
    if kind in simple:
        return simple[kind]
    return {"date-time": STAMP, "uri": "https://forge.example/x"}.get(schema.get("format", ""), "x")


def of(name: str, /, **given: Any) -> Any:
    """A value of one of GitHub's schemas."""
    return filled({"$ref": f"#/components/schemas/{name}"}, given)


@dataclass(frozen=True)
class Reply:
    """What is answered."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """An answer in place of the right one: for requests of this verb and path, so many times."""

    verb: str
    path: str
    reply: Reply
    times: int = 1_000_000
    after: bool = False  # the request is carried out, and its answer lost


@dataclass(frozen=True)
class Call:
    """A request that came in."""

    verb: str
    path: str
    query: dict[str, str]
    body: Any
    status: int


@dataclass
class FakeGitHub:
    """The state of one repository.

    Args:
        writable: the token may write. user: who a token's comments are from, and of which type.
        violations: requests and replies that GitHub's text does not know; a test that leaves one has failed.
    """

    repository: str = "owner/repo"
    writable: bool = True
    user: tuple[str, str] = ("github-actions[bot]", "Bot")
    url: str = ""
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    check_runs: list[dict[str, Any]] = field(default_factory=list)
    annotations: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    pulls: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    archives: dict[int, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    next_id: int = 1000

    # What tests put in.

    def add_comment(self, number: int, body: str, login: str = "somebody", kind: str = "User", **more: Any) -> dict:
        """Somebody's comment."""
        self.next_id += 1
        user = of("simple-user", login=login, type=kind)
        url = f"{self.url}/repos/{self.repository}/issues/comments/{self.next_id}"
        given = {"id": self.next_id, "url": url, "body": body, "user": user, "author_association": "NONE", **more}
        self.comments.setdefault(number, []).append(of("issue-comment", **given))
        return self.comments[number][-1]

    def add_pull(self, number: int, sha: str, branch: str = "feature", repository: str | None = None) -> None:
        """An open pull request."""
        name = repository or self.repository
        owner = of("simple-user", login=name.split("/")[0])
        repo = of("repository", full_name=name, owner=owner)
        head = {"sha": sha, "ref": branch, "repo": repo, "label": f"{name.split('/')[0]}:{branch}"}
        self.pulls.append(of("pull-request-simple", number=number, state="open", head=head))

    def add_artifact(self, run: int, name: str, archive: bytes, **more: Any) -> int:
        """An archive that a run uploaded."""
        self.next_id += 1
        given = {"id": self.next_id, "name": name, "size_in_bytes": len(archive), **more}
        self.artifacts.setdefault(run, []).append(of("artifact", **given))
        self.archives[self.next_id] = archive
        return self.next_id

    def fail(self, verb: str, path: str, status: int, times: int = 1_000_000, **more: Any) -> None:
        """Answer requests whose path holds ``path`` with a failure."""
        body = {"message": more.pop("message", "Bad things happen"), "documentation_url": "https://forge.example"}
        self.faults.append(Fault(verb, path, Reply(status, body, more.pop("headers", {})), times, **more))

    def writes(self) -> list[Call]:
        """Requests that write."""
        return [one for one in self.calls if one.verb != "GET"]

    # What the API does.

    def answer(self, verb: str, raw: str, headers: Any, body: Any) -> Reply:
        """Answer one request."""
        if raw == "/uploads":
            return Reply(201, {})
        parts = urlsplit(raw)
        path, query = unquote(parts.path), {key: ones[-1] for key, ones in parse_qs(parts.query).items()}
        if path.startswith("/blob/"):
            if headers.get("Authorization"):
                self.leaked.append(headers["Authorization"])
            return Reply(200, self.archives[int(path.rpartition("/")[2])])
        fault = next((one for one in self.faults if one.verb == verb and one.path in path and one.times > 0), None)
        if fault:
            fault.times -= 1
        if fault and not fault.after:
            reply = fault.reply
        else:
            reply = self.right(verb, path, query, headers, body)
        if fault and fault.after:
            reply = fault.reply
        self.calls.append(Call(verb, path, query, body, reply.status))
        return reply

    def right(self, verb: str, path: str, query: dict[str, str], headers: Any, body: Any) -> Reply:
        """What GitHub would answer, held to its text."""
        if not (headers.get("Authorization") or "").startswith(("token ", "Bearer ")):
            return Reply(401, {"message": "Bad credentials"})
        known = self.operation(verb, path)
        if known is None:
            self.violations.append(f"{verb} {path}: no such operation")
            return Reply(404, {"message": "Not Found"})
        template, operation, names = known
        where = f"{verb} {template}"
        self.violations += [f"{where}: request: {one}" for one in request_problems(operation, query, body)]
        if names["owner"] + "/" + names["repo"] != self.repository:
            return Reply(404, {"message": "Not Found"})
        if verb != "GET" and not self.writable:
            return Reply(403, {"message": READ_ONLY, "documentation_url": "https://forge.example"})
        reply = getattr(self, HANDLERS[verb, template])(names, query, body)
        schema = resolved(operation["responses"].get(str(reply.status), {})).get("content", {})
        if reply.status >= 400 or reply.status == 302:
            return reply
        found = problems_of(schema["application/json"]["schema"], reply.body)
        self.violations += [f"{where}: reply {reply.status}: {one}" for one in found]
        return reply

    def operation(self, verb: str, path: str) -> tuple[str, dict[str, Any], dict[str, str]] | None:
        """The operation of a request: its path as a template, its text, and the names in the path."""
        for template, verbs in text()["paths"].items():
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template)
            if (match := re.fullmatch(pattern, path)) and verb.lower() in verbs:
                return template, verbs[verb.lower()], match.groupdict()
        return None

    def list_comments(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """The comments of a pull request, oldest first."""
        path = f"/repos/{self.repository}/issues/{names['issue_number']}/comments"
        return self.page(self.comments.get(int(names["issue_number"]), []), query, path)

    def create_comment(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """Write a comment."""
        if characters(body["body"]) > LONGEST_COMMENT:
            return Reply(422, {"message": f"Validation Failed: body is too long (maximum is {LONGEST_COMMENT})"})
        login, kind = self.user
        number = int(names["issue_number"])
        return Reply(201, self.add_comment(number, body["body"], login, kind, author_association="COLLABORATOR"))

    def get_comment(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """One comment."""
        everyone = [one for ones in self.comments.values() for one in ones]
        found = next((one for one in everyone if one["id"] == int(names["comment_id"])), None)
        return Reply(200, found) if found else Reply(404, {"message": "Not Found"})

    def edit_comment(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """Edit a comment; a maintainer's token may edit anybody's."""
        everyone = [one for ones in self.comments.values() for one in ones]
        found = next((one for one in everyone if one["id"] == int(names["comment_id"])), None)
        if found is None:
            return Reply(404, {"message": "Not Found"})
        if characters(body["body"]) > LONGEST_COMMENT:
            return Reply(422, {"message": f"Validation Failed: body is too long (maximum is {LONGEST_COMMENT})"})
        found["body"] = body["body"]
        return Reply(200, found)

    def list_checks(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """The check runs of a commit, newest first; of one name only the newest, unless asked for all."""
        ones = [one for one in reversed(self.check_runs) if one["head_sha"] == names["ref"]]
        ones = [one for one in ones if one["name"] == query.get("check_name", one["name"])]
        if query.get("filter", "latest") == "latest":
            ones = list({one["name"]: one for one in reversed(ones)}.values())
        path = f"/repos/{self.repository}/commits/{names['ref']}/check-runs"
        reply = self.page(ones, query, path)
        return Reply(200, {"total_count": len(ones), "check_runs": reply.body}, reply.headers)

    def create_check(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """Create a check run."""
        if problem := check_problem(body):
            return Reply(422, {"message": problem})
        self.next_id += 1
        run = of("check-run", id=self.next_id, name=body["name"], head_sha=body["head_sha"], external_id="")
        run.update(status=body.get("status", "queued"), conclusion=None, started_at=STAMP, completed_at=None)
        run["url"] = f"{self.url}/repos/{self.repository}/check-runs/{self.next_id}"
        run["check_suite"] = {"id": 1}  # the text allows null; GitHub sends it, and PyGithub relies on that
        self.check_runs.append(run)
        return Reply(201, self.changed(run, body))

    def edit_check(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """Edit a check run; annotations are added to those that are there."""
        run = next((one for one in self.check_runs if one["id"] == int(names["check_run_id"])), None)
        if run is None:
            return Reply(404, {"message": "Not Found"})
        if problem := check_problem(body):
            return Reply(422, {"message": problem})
        return Reply(200, self.changed(run, body))

    def changed(self, run: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """Take over what a request says of a check run."""
        run.update({key: body[key] for key in ("status", "conclusion", "external_id") if key in body})
        if "conclusion" in body:
            run.update(status="completed", completed_at=STAMP)
        notes = self.annotations.setdefault(run["id"], [])
        output = dict(body.get("output", {}))
        notes += output.pop("annotations", [])
        run["output"].update({"text": None, **output} if output else {}, annotations_count=len(notes))
        return run

    def list_pulls(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """Pull requests, by state and head."""
        ones = [one for one in self.pulls if one["state"] == query.get("state", "open")]
        if "head" in query:
            ones = [one for one in ones if one["head"]["label"] == query["head"]]
        return self.page(ones, query, f"/repos/{self.repository}/pulls")

    def list_artifacts(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """The artifacts of a run."""
        ones = self.artifacts.get(int(names["run_id"]), [])
        reply = self.page(ones, query, f"/repos/{self.repository}/actions/runs/{names['run_id']}/artifacts")
        return Reply(200, {"total_count": len(ones), "artifacts": reply.body}, reply.headers)

    def give_artifact(self, names: dict[str, str], query: dict[str, str], body: Any) -> Reply:
        """Say where an archive lies: on another host, which must not see the token."""
        if int(names["artifact_id"]) not in self.archives:
            return Reply(404, {"message": "Not Found"})
        place = self.url.replace("127.0.0.1", "localhost") + f"/blob/{names['artifact_id']}"
        return Reply(302, None, {"Location": place})

    def page(self, ones: list[Any], query: dict[str, str], path: str) -> Reply:
        """One page of a list, with the address of the next."""
        size, number = min(100, int(query.get("per_page", 30))), int(query.get("page", 1))
        more = {**query, "page": str(number + 1)}
        link = f'<{self.url}{path}?{"&".join(f"{key}={one}" for key, one in more.items())}>; rel="next"'
        headers = {"Link": link} if number * size < len(ones) else {}
        return Reply(200, ones[(number - 1) * size : number * size], headers)


HANDLERS = {
    ("GET", "/repos/{owner}/{repo}/issues/{issue_number}/comments"): "list_comments",
    ("POST", "/repos/{owner}/{repo}/issues/{issue_number}/comments"): "create_comment",
    ("GET", "/repos/{owner}/{repo}/issues/comments/{comment_id}"): "get_comment",
    ("PATCH", "/repos/{owner}/{repo}/issues/comments/{comment_id}"): "edit_comment",
    ("GET", "/repos/{owner}/{repo}/commits/{ref}/check-runs"): "list_checks",
    ("POST", "/repos/{owner}/{repo}/check-runs"): "create_check",
    ("PATCH", "/repos/{owner}/{repo}/check-runs/{check_run_id}"): "edit_check",
    ("GET", "/repos/{owner}/{repo}/pulls"): "list_pulls",
    ("GET", "/repos/{owner}/{repo}/actions/runs/{run_id}/artifacts"): "list_artifacts",
    ("GET", "/repos/{owner}/{repo}/actions/artifacts/{artifact_id}/{archive_format}"): "give_artifact",
}


def request_problems(operation: dict[str, Any], query: dict[str, str], body: Any) -> Iterator[str]:
    """What in a request the text does not know."""
    known = {one["name"]: one for one in map(resolved, operation.get("parameters", ())) if one["in"] == "query"}
    for name, value in query.items():
        if name not in known:
            yield f"query {name}: not known"
        else:
            schema = known[name]["schema"]
            yield from problems_of(schema, int(value) if schema.get("type") == "integer" else value)
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        yield from problems_of(schema, body)
        yield from (f"{name}: not known" for name in set(body or {}) - set(schema["properties"]))
    elif body is not None:
        yield "a body where none is known"


def check_problem(body: dict[str, Any]) -> str | None:
    """What GitHub's prose says of check runs."""
    output = body.get("output", {})
    if len(output.get("annotations", ())) > MOST_ANNOTATIONS:
        return "Invalid request: No more than 50 items are allowed"
    if any(characters(output.get(name) or "") > LONGEST_TEXT for name in ("summary", "text")):
        return f"Invalid request: Only {LONGEST_TEXT} characters are allowed"
    if body.get("status") == "completed" and "conclusion" not in body:
        return "Invalid request: conclusion is missing"
    return None


def characters(value: str) -> int:
    """Length as JavaScript counts it, which is the strictest of those in use."""
    return len(value.encode("utf-16-le")) // 2


def handler_of(fake: FakeGitHub, after: Callable[[], None]) -> type[BaseHTTPRequestHandler]:
    """The handler of one server."""

    class Handler(BaseHTTPRequestHandler):
        """Hands every request to the fake."""

        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length) if length else b""
            if self.command == "PUT" and self.path.startswith("/uploads/"):
                # Not of the API: where the stand-in for actions/upload-artifact leaves an archive.
                _, _, run, name = self.path.split("/")
                fake.add_artifact(int(run), name, content)
                content, self.path = b"", "/uploads"
            reply = fake.answer(self.command, self.path, self.headers, json.loads(content) if content else None)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            after()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_PUT = handle_one  # noqa: N815  # names that http.server looks for

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def serving(fake: FakeGitHub, port: int = 0, after: Callable[[], None] = lambda: None) -> Iterator[FakeGitHub]:
    """Serve until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler_of(fake, after))
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Serve until ended; the state goes to a file after each request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--repository", default="owner/repo")
    asked = parser.parse_args()
    fake = FakeGitHub(repository=asked.repository)

    def keep() -> None:
        calls = [f"{one.verb} {one.path} {one.status}" for one in fake.calls]
        state = {"comments": fake.comments, "check_runs": fake.check_runs, "annotations": fake.annotations}
        asked.state.write_text(json.dumps({**state, "calls": calls, "violations": fake.violations}, indent=1))

    keep()
    with serving(fake, asked.port, keep):
        threading.Event().wait()


if __name__ == "__main__":
    main()
