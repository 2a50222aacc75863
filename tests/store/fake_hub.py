"""A Hugging Face Hub of our own on loopback: what huggingface_hub asks of it, answered from folders and set errors."""

import hashlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from testbed.loopback import Loopback, serving

COMMIT, OLDER = "a" * 40, "b" * 40
TOKEN = "hf_a_token_of_nobody"


@dataclass
class FakeHub:
    """Repositories, who may read them, and what was asked."""

    url: str = ""
    folders: dict[tuple[str, str], Path] = field(default_factory=dict)  # (repository, commit) -> its files
    refs: dict[tuple[str, str], str] = field(default_factory=dict)  # (repository, branch or tag) -> commit
    gated: set[str] = field(default_factory=set)  # repositories whose files only TOKEN may read
    private: set[str] = field(default_factory=set)  # repositories of which only TOKEN may know
    broken: int = 0  # the status that answers everything; 0: none
    asked: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)  # how the client named itself

    def add(self, repo: str, folder: str | Path, commit: str = COMMIT, *refs: str) -> None:
        """A repository whose `refs` (main where none is given) stand at this commit."""
        self.folders[repo, commit] = Path(folder)
        self.refs |= {(repo, ref): commit for ref in refs or ("main",)}

    def answer(self, path: str, token: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, as the Hub gives them."""
        if self.broken:
            return self.broken, {}, b""
        if token and token != f"Bearer {TOKEN}":
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        words = [unquote(word) for word in path.strip("/").split("/")]
        if len(words) < 4:  # what the library asks of the real Hub beside models
            return 404, {}, b""
        if words[:2] == ["api", "models"]:
            repo, what, revision = "/".join(words[2:4]), words[4], words[5]
        else:
            repo, what, revision = "/".join(words[:2]), words[2], words[3]
        if not any(known == repo for known, _ in self.folders) or (repo in self.private and not token):
            return 401 if not token else 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = self.refs.get((repo, revision), revision)
        if (repo, commit) not in self.folders:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if what == "revision":
            return 200, {}, json.dumps({"id": repo, "sha": commit, "siblings": []}).encode()
        if repo in self.gated and not token and what == "resolve":
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        return self._files(self.folders[repo, commit], what, "/".join(words[4:]), commit)

    def _files(self, folder: Path, what: str, name: str, commit: str) -> tuple[int, dict[str, str], bytes]:
        if what == "tree":
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            listed = [
                {"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size, "oid": "0" * 40}
                for p in files
            ]
            return 200, {}, json.dumps(listed).encode()
        if not (folder / name).is_file():
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = (folder / name).read_bytes()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


@contextmanager
def fake_hub(hub: FakeHub):
    """`hub` with its URL while it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            hub.asked.append(f"{self.command} {urlsplit(self.path).path}")
            hub.agents.add(self.headers.get("User-Agent", ""))
            status, headers, body = hub.answer(urlsplit(self.path).path, self.headers.get("Authorization", ""))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with serving(Loopback(Handler)) as server:
        hub.url = server.url
        yield hub
