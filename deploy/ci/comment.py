#!/usr/bin/env python3
"""Posts the reports of a gate as one comment of a pull or merge request, or updates the one that is there.

    comment.py github report.md...      GITHUB_TOKEN, and what GitHub Actions sets
    comment.py gitlab report.md...      EDGEPRUNE_GITLAB_TOKEN (scope api), and what GitLab CI sets

Needs Python 3.8 and nothing else. Where there is no request, or the token may not write (a fork), it says so and ends
well: the reports are also uploaded with the job.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

MARK = "<!-- edgeprune-gate -->"
LONGEST = 60_000  # characters; the forges stop at 65,536 and a million


class Forge:
    """The comments of one request, at an address, with the headers that open it; `change` is how one is updated."""

    def __init__(self, comments, one, headers, change):
        """Remember where they are; `one` is the address of a single comment, with {id} in it."""
        self.comments, self.one, self.headers, self.change = comments, one, headers, change

    def own(self):
        """Return the id of our comment, None where there is none yet."""
        page = 1
        while True:
            found = self.call("GET", f"{self.comments}?per_page=100&page={page}")
            for comment in found:
                if MARK in (comment.get("body") or ""):
                    return comment["id"]
            if len(found) < 100:
                return None
            page += 1

    def say(self, body):
        """Post the comment, or put a new text into ours."""
        known = self.own()
        if known is None:
            self.call("POST", self.comments, {"body": body})
        else:
            self.call(self.change, self.one.format(id=known), {"body": body})

    def call(self, method, address, data=None):
        """Return what the forge answers."""
        content = None if data is None else json.dumps(data).encode()
        headers = {"Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(address, content, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def github(env):
    """Return the comments of the pull request that this job is about, None where it is about none."""
    event = json.loads(Path(env["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    number = event.get("pull_request", {}).get("number")
    if number is None:
        return None
    issues = f"{env['GITHUB_API_URL']}/repos/{env['GITHUB_REPOSITORY']}/issues"
    headers = {"Authorization": f"Bearer {env['GITHUB_TOKEN']}", "Accept": "application/vnd.github+json"}
    return Forge(f"{issues}/{number}/comments", f"{issues}/comments/{{id}}", headers, "PATCH")


def gitlab(env):
    """Return the notes of the merge request that this job is about, None where it is about none."""
    number = env.get("CI_MERGE_REQUEST_IID")
    if not number:
        return None
    notes = f"{env['CI_API_V4_URL']}/projects/{env['CI_PROJECT_ID']}/merge_requests/{number}/notes"
    return Forge(notes, f"{notes}/{{id}}", {"PRIVATE-TOKEN": env["EDGEPRUNE_GITLAB_TOKEN"]}, "PUT")


def text_of(paths):
    """Return the reports as one text, with our mark once, and not longer than a forge takes."""
    reports = [Path(path).read_text(encoding="utf-8").replace(MARK, "").strip() for path in paths]
    text = MARK + "\n" + "\n\n---\n\n".join(reports) + "\n"
    if len(text) <= LONGEST:
        return text
    return text[:LONGEST] + "\n\nThe rest is in the report that was uploaded with the job.\n"


def main(arguments, env):
    """Post the comment; return the exit code."""
    forges = {"github": github, "gitlab": gitlab}
    if len(arguments) < 2 or arguments[0] not in forges:
        print("usage: comment.py github|gitlab REPORT.md...", file=sys.stderr)
        return 2
    try:
        forge = forges[arguments[0]](env)
        if forge is None:
            print("This job is about no pull or merge request; nothing to comment on.")
            return 0
        forge.say(text_of(arguments[1:]))
    except KeyError as error:
        print(f"{error.args[0]} is not set in the environment; no comment was posted.", file=sys.stderr)
        return 2
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise
        print(f"The token may not comment here (HTTP {error.code}), as in a pull request from a fork.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
