"""The CI files keep to the schemas and linters of their forges, and their parts do what the files ask of them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgeprune.verdict.gate_limits import read_limits

_ROOT = Path(__file__).parents[2]
_CI = _ROOT / "deploy" / "ci"
_COMMENT = _CI / "comment.py"


def run(*arguments, **environment):
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=_ROOT, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", "github/gate.yml"),
        ("vendor.github-actions", "github/action.yml"),
        ("vendor.gitlab-ci", "gitlab/gate.yml"),
    ],
)
def test_files_keep_to_the_schema_of_their_forge(schema, file):
    done = run("check_jsonschema", "--builtin-schema", schema, _CI / file)
    assert done.returncode == 0, done.stdout


def test_yaml_is_clean():
    rules = "{extends: default, rules: {line-length: {max: 120}, truthy: {check-keys: false}}}"
    done = run("yamllint", "--strict", "-d", rules, _CI)
    assert done.returncode == 0, done.stdout


def test_workflows_are_safe():
    zizmor = Path(sys.executable).with_name("zizmor")
    flags = ("--offline", "--no-progress", "--min-severity=medium", "--config", _CI / "zizmor.yml")
    done = subprocess.run([zizmor, *flags, _CI / "github"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_flags_that_the_files_use_are_there():
    shown = run("edgeprune.cli", "gate", "--help", COLUMNS="200").stdout
    for file in ("github/action.yml", "gitlab/gate.yml"):
        text = (_CI / file).read_text()
        call = text[text.index("edgeprune gate ") :].split("||")[0].split("artifacts:")[0]
        flags = set(re.findall(r"--[a-z-]+", call))
        assert {"--limits", "--html", "--markdown", "--junit"} <= flags
        assert [flag for flag in flags if flag not in shown] == []


def test_the_example_limits_can_be_read():
    limits = read_limits(_CI / "gate.toml")
    assert {limit.name for limit in limits.applying("net", "lab-pi")} >= {"latency_p50", "latency_regression"}


class Forge(BaseHTTPRequestHandler):
    """A forge's comments, over real HTTP; 150 of other people come first."""

    comments: list
    refuse = 0
    seen: list

    def do_GET(self):
        page = int(re.search(r"page=(\d+)$", self.path)[1])
        self.answer(self.comments[100 * (page - 1) : 100 * page])

    def do_POST(self):
        self.comments.append({"id": len(self.comments), "body": self.body()})
        self.answer(self.comments[-1])

    def do_PATCH(self):
        comment = self.comments[int(self.path.rpartition("/")[2])]
        comment["body"] = self.body()
        self.answer(comment)

    do_PUT = do_PATCH  # noqa: N815 the name that http.server calls

    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]

    def answer(self, data):
        self.seen.append((self.command, self.path.partition("?")[0]))
        self.send_response(self.refuse or 200)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def forge():
    handler = type("OneForge", (Forge,), {"comments": [{"id": n, "body": "hi"} for n in range(150)], "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def comment():
    spec = importlib.util.spec_from_file_location("comment", _COMMENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(kind, address, folder):
    if kind == "gitlab":
        facts = {"CI_MERGE_REQUEST_IID": "7", "CI_PROJECT_ID": "3", "EDGEPRUNE_GITLAB_TOKEN": "t"}
        return {"CI_API_V4_URL": address, **facts}
    event = folder / "event.json"
    event.write_text(json.dumps({"pull_request": {"number": 7}}))
    facts = {"GITHUB_REPOSITORY": "a/b", "GITHUB_TOKEN": "t", "GITHUB_EVENT_PATH": str(event)}
    return {"GITHUB_API_URL": address, **facts}


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_there_is_one_comment_which_is_updated(comment, forge, tmp_path, kind):
    handler, address = forge
    env = environment(kind, address, tmp_path)
    reports = [tmp_path / "host.md", tmp_path / "board.md"]
    for text in ("first", "second"):
        for report in reports:
            report.write_text(f"{comment.MARK}\n## {text} of {report.stem}\n")
        assert comment.main([kind, *map(str, reports)], env) == 0
    assert len(handler.comments) == 151
    body = handler.comments[150]["body"]
    assert body.startswith(comment.MARK)
    assert body.count(comment.MARK) == 1
    assert "## second of host" in body
    assert "## second of board" in body
    single = "/repos/a/b/issues/comments/150" if kind == "github" else "/projects/3/merge_requests/7/notes/150"
    assert handler.seen[-1] == ("PATCH" if kind == "github" else "PUT", single)


def test_a_report_that_is_too_long_is_cut(comment, tmp_path):
    report = tmp_path / "report.md"
    report.write_text("x" * 100_000)
    assert len(comment.text_of([report])) < 65_536


def test_a_token_that_may_not_write_fails_no_job(comment, forge, tmp_path, capsys):
    handler, address = forge
    handler.refuse = 403
    report = tmp_path / "report.md"
    report.write_text("x")
    assert comment.main(["github", str(report)], environment("github", address, tmp_path)) == 0
    assert "may not comment here (HTTP 403)" in capsys.readouterr().out


def test_mistakes_are_named(comment, tmp_path, capsys):
    assert comment.main([], {}) == 2
    assert comment.main(["github", "x"], {}) == 2
    assert "GITHUB_EVENT_PATH is not set" in capsys.readouterr().err
    assert comment.main(["gitlab", "x"], {}) == 0
    assert "no pull or merge request" in capsys.readouterr().out
