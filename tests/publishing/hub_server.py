"""A Hub on this machine: the calls that `huggingface_hub` makes to publish and fetch, answered over HTTP from memory.

with LocalHub() as hub:
    HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("org/name")

Large files are served, as on the Hub, by a redirect to a second server (`hub.cdn`), which needs and wants no token.
Faults are asked for with `cut_upload_of` and `damage`; `heal` ends them. What came in is in `hub.requests`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".jpg", ".webp", ".bin", ".tar")
LFS_OVER_BYTES = 10_000_000
Damage = Literal["flipped", "short", "cut"]


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str | None = None, message: str = "", **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **headers}
        if code:
            self.headers["X-Error-Code"] = code


class Request(NamedTuple):
    """One request as it came in; `body_bytes` of an upload that was cut is what had arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body_bytes: int
    server: Literal["hub", "cdn"]


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    sent_bytes: int | None = None  # fewer than announced: the connection is closed in the middle

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Answer:
        return cls(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


@dataclass(frozen=True)
class StoredFile:
    """`oid` is git's SHA-1 of the content, or of the pointer if `sha256` names a large file."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def entry(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 130}
        return entry


@dataclass
class Repository:
    kind: str
    id: str
    private: bool
    settings: dict[str, Any]
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, StoredFile], message: str) -> str:
        told = json.dumps([self.id, len(self.commits), message, {p: f.etag for p, f in sorted(files.items())}])
        sha = hashlib.sha1(told.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    def at(self, revision: str) -> str:
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class LocalHub:
    """A context manager; `endpoint` is an address of this machine with a port that was free."""

    token = "token-of-tester"
    user = "tester"

    def __init__(self, *, multipart_over: int | None = None, page_size: int = 1000):
        self.multipart_over = multipart_over
        self.page_size = page_size
        self.tokens: dict[str, dict[str, Any]] = {
            self.token: {"name": self.user, "orgs": ["org"]},
            "token-of-stranger": {"name": "stranger"},
        }
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}  # small files by git SHA-1
        self.large: dict[str, bytes] = {}  # large files by SHA-256
        self.requests: list[Request] = []
        self._parts: dict[str, dict[int, bytes]] = {}
        self._cuts: dict[str, tuple[int, int]] = {}
        self._damages: dict[str, tuple[Damage, int | None]] = {}
        self._lock = threading.RLock()
        self._servers = [self._server("hub"), self._server("cdn")]

    def __enter__(self) -> LocalHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _server(self, name: str) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self, "name": name}))
        server.daemon_threads = True
        server.block_on_close = False
        return server

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    # --- what tests ask for -------------------------------------------------------------------------------------

    def cut_upload_of(self, sha256: str, *, after_bytes: int, when_stored: int = 0) -> None:
        """Every upload of this content breaks off, once `when_stored` other large files are there."""
        self._cuts[sha256] = (after_bytes, when_stored)

    def damage(self, path: str, how: Damage, *, times: int | None = None) -> None:
        """Downloads of the file are wrong, `times` times or until `heal`.

        flipped: one byte is another; short: half of it, and the length says so; cut: half, then the line is dead.
        """
        self._damages[path] = (how, times)

    def heal(self) -> None:
        self._cuts.clear()
        self._damages.clear()

    def files(self, repo_id: str, revision: str = "main", *, kind: str = "model") -> dict[str, bytes]:
        """The content of every file of a revision."""
        repo = self.repositories[kind, repo_id]
        return {path: self._content(file) for path, file in repo.commits[repo.at(revision)].items()}

    def uploads(self, since: int = 0) -> list[str]:
        """SHA-256 of the large files whose content was sent, in order."""
        return [r.path.split("/")[2] for r in self.requests[since:] if r.method == "PUT" and r.path.startswith("/lfs/")]

    # --- answers ------------------------------------------------------------------------------------------------

    def answer(self, request: Request, body: bytes) -> Answer:
        parts = [unquote(part) for part in request.path.split("/") if part]
        match [request.method, *parts]:
            case ["GET" | "HEAD", "cdn", sha256] if request.server == "cdn":
                return self._send(self.large[sha256], request, path=request.query["file"][0])
            case ["PUT", "lfs", sha256, *part]:
                return self._receive(sha256, body, *map(int, part))
            case ["POST", "lfs", sha256, "complete"]:
                pieces = self._parts.pop(sha256)
                if [part["partNumber"] for part in json.loads(body)["parts"]] != sorted(pieces):
                    raise Refusal(400, message="parts are missing")
                return self._receive(sha256, b"".join(pieces[i] for i in sorted(pieces)))
            case ["POST", "lfs", sha256, "verify"]:
                if len(self.large.get(sha256, b"")) != json.loads(body)["size"]:
                    raise Refusal(422, message="the size differs")
                return Answer()
            case ["GET", "api", "whoami-v2"]:
                user = self._user(request, required=True)
                return Answer.json({"type": "user", "name": user["name"], "orgs": [{"name": o} for o in user["orgs"]]})
            case ["POST", "api", "validate-yaml"]:
                return self._validate(json.loads(body))
            case ["POST", "api", "repos", "create"]:
                return self._create(request, json.loads(body))
            case [method, "api", kinds, owner, name, *rest] if kinds in KINDS:
                return self._api(
                    request, self._repository(request, KINDS[kinds], f"{owner}/{name}"), method, rest, body
                )
            case ["GET" | "HEAD", *path] if "resolve" in path:
                kind, repo_id, revision, file = _resolved(path)
                return self._resolve(request, self._repository(request, kind, repo_id), revision, file)
            case ["POST", *prefix, owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                repo = self._repository(request, _kind(prefix), f"{owner}/{name.removesuffix('.git')}", write=True)
                return self._batch(repo, json.loads(body))
        raise Refusal(404, message=f"this server does not know {request.method} {request.path}")

    def _user(self, request: Request, *, required: bool = False) -> dict[str, Any]:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if given and given not in self.tokens:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        if not given and required:
            raise Refusal(401, message="Invalid username or password.")
        return {"name": None, "orgs": [], **self.tokens.get(given, {})}

    def _may_write(self, user: dict[str, Any], repo_id: str) -> bool:
        return repo_id.split("/")[0] in {user["name"], *user["orgs"]}

    def _repository(self, request: Request, kind: str, repo_id: str, *, write: bool = False) -> Repository:
        """A repository that one may not see is answered like one that is not there, as the Hub does."""
        user = self._user(request, required=write)
        repo = self.repositories.get((kind, repo_id))
        if repo is None or (repo.private and not self._may_write(user, repo_id)):
            raise Refusal(404 if user["name"] else 401, "RepoNotFound", "Repository not found")
        if write and not self._may_write(user, repo_id):
            raise Refusal(403, message="You don't have the rights to write to this repository")
        return repo

    def _validate(self, asked: dict[str, Any]) -> Answer:
        front = re.match(r"\s*---\n(.*?)\n---(\n|$)", asked["content"], re.S)
        warnings = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
        try:
            data = yaml.safe_load(front[1]) if front else {}
            problems = [] if isinstance(data, dict) else ["the metadata is not a dictionary"]
        except yaml.YAMLError as error:
            problems = [str(error)]
        return Answer.json(
            {"errors": [{"message": p} for p in problems], "warnings": warnings}, status=400 if problems else 200
        )

    def _create(self, request: Request, asked: dict[str, Any]) -> Answer:
        user = self._user(request, required=True)
        kind = asked.get("type") or "model"
        repo_id = f"{asked.get('organization') or user['name']}/{asked['name']}"
        url = f"{self.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
        if not self._may_write(user, repo_id):
            raise Refusal(403, message=f"You don't have the rights to create a {kind} under this namespace")
        if (kind, repo_id) in self.repositories:
            return Answer.json({"error": "You already created this repo", "url": url, "id": repo_id}, status=409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repo = Repository(kind, repo_id, private, asked)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
        repo.commit("main", {".gitattributes": self._keep(attributes)}, "initial commit")
        self.repositories[kind, repo_id] = repo
        return Answer.json({"url": url, "id": repo_id, "name": repo_id})

    def _keep(self, content: bytes) -> StoredFile:
        oid = git_sha1(content)
        self.blobs[oid] = content
        return StoredFile(oid, len(content))

    def _content(self, file: StoredFile) -> bytes:
        return self.large[file.sha256] if file.sha256 else self.blobs[file.oid]

    def _api(self, request: Request, repo: Repository, method: str, rest: list[str], body: bytes) -> Answer:
        if method == "POST" and rest[0] != "paths-info":
            self._repository(request, repo.kind, repo.id, write=True)
        match [method, *rest]:
            case ["GET"]:
                return self._info(repo, "main")
            case ["GET", "revision", revision]:
                return self._info(repo, revision)
            case ["GET", "refs"]:
                branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
                return Answer.json({"branches": branches, "converts": [], "tags": []})
            case ["GET", "tree", revision, *folder]:
                return self._tree(request, repo, revision, "/".join(folder))
            case ["POST", "paths-info", revision]:
                files = repo.commits[repo.at(revision)]
                asked = parse_qs(body.decode()).get("paths", [])
                return Answer.json([files[path].entry(path) for path in asked if path in files])
            case ["POST", "branch" | "tag", name]:
                if name in repo.refs:
                    raise Refusal(409, message=f"Reference already exists: {name}")
                repo.refs[name] = repo.at((json.loads(body or b"{}")).get("startingPoint") or "main")
                return Answer.json({})
            case ["POST", "variables"] if repo.kind == "space":
                asked = json.loads(body)
                repo.settings.setdefault("variables", {})[asked["key"]] = asked["value"]
                return Answer.json({key: {"value": v} for key, v in repo.settings["variables"].items()})
            case ["POST", "preupload", revision]:
                return self._preupload(repo, revision, json.loads(body))
            case ["POST", "commit", revision]:
                with self._lock:
                    return self._commit(repo, revision, [json.loads(line) for line in body.splitlines() if line])
        raise Refusal(404, message=f"this server does not know {method} {request.path}")

    def _info(self, repo: Repository, revision: str) -> Answer:
        sha = repo.at(revision)
        siblings = [{"rfilename": path} for path in sorted(repo.commits[sha])]
        return Answer.json(
            {"_id": repo.id, "id": repo.id, "modelId": repo.id, "private": repo.private, "sha": sha, "tags": [],
             "siblings": siblings, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        )  # fmt: skip

    def _tree(self, request: Request, repo: Repository, revision: str, folder: str) -> Answer:
        files = repo.commits[repo.at(revision)]
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in files.items() if path.startswith(prefix)}
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
        folders = {path[:i] for path in inside for i, c in enumerate(path) if c == "/" and i >= len(prefix)}
        entries = [file.entry(path) for path, file in sorted(inside.items())]
        entries += [{"type": "directory", "path": path, "size": 0, "oid": git_sha1(path.encode())} for path in folders]
        if request.query.get("recursive", ["false"])[0].lower() != "true":
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]
        entries.sort(key=lambda entry: entry["path"])
        start = int(request.query.get("cursor", ["0"])[0])
        page, end = entries[start : start + self.page_size], start + self.page_size
        answer = Answer.json(page)
        if end < len(entries):
            recursive = request.query.get("recursive", ["false"])[0]
            answer.headers["Link"] = f'<{self.endpoint}{request.path}?recursive={recursive}&cursor={end}>; rel="next"'
        return answer

    def _preupload(self, repo: Repository, revision: str, asked: dict[str, Any]) -> Answer:
        files = repo.commits[repo.at(revision)]
        answers = []
        for file in asked["files"]:
            large = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_OVER_BYTES
            known = files.get(file["path"])
            answers.append(
                {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False,
                 "oid": known.etag if known else None}
            )  # fmt: skip
        return Answer.json({"files": answers})

    def _batch(self, repo: Repository, asked: dict[str, Any]) -> Answer:
        objects = []
        for item in asked["objects"]:
            oid, size = item["oid"], item["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.large:
                href = f"{self.endpoint}/lfs/{oid}"
                upload: dict[str, Any] = {"href": href}
                if self.multipart_over is not None and size > self.multipart_over:
                    chunk = self.multipart_over
                    parts = {str(i + 1): f"{href}/{i + 1}" for i in range(-(-size // chunk))}
                    upload = {"href": f"{href}/complete", "header": {"chunk_size": str(chunk), **parts}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{href}/verify"}}
            objects.append(answer)
        return Answer.json({"transfer": "basic", "objects": objects})

    def _receive(self, sha256: str, content: bytes, part: int | None = None) -> Answer:
        if part is not None:
            self._parts.setdefault(sha256, {})[part] = content
            return Answer(headers={"ETag": f'"{git_sha1(content)}"'})
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refusal(400, message="the content does not have the announced SHA-256")
        self.large[sha256] = content
        return Answer()

    def _commit(self, repo: Repository, revision: str, lines: list[dict[str, Any]]) -> Answer:
        if revision not in repo.refs:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = dict(repo.commits[repo.refs[revision]])
        message = ""
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit", repo.refs[revision]) != repo.refs[revision]:
                    raise Refusal(412, message="A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = self._keep(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if value["oid"] not in self.large:
                    raise Refusal(400, message=f"{value['path']}: the content has not been uploaded")
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{value['oid']}\nsize {value['size']}\n"
                )
                files[value["path"]] = StoredFile(git_sha1(pointer.encode()), value["size"], value["oid"])
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "EntryNotFound", "A file with this name doesn't exist")
            elif key == "deletedFolder":
                files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
            else:
                raise Refusal(400, message=f"unknown operation {key}")
        sha = repo.commit(revision, files, message)
        return Answer.json({"success": True, "commitOid": sha, "commitUrl": f"{self.endpoint}/{repo.id}/commit/{sha}"})

    def _resolve(self, request: Request, repo: Repository, revision: str, path: str) -> Answer:
        sha = repo.at(revision)
        headers = {"X-Repo-Commit": sha}
        file = repo.commits[sha].get(path)
        if file is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", **headers)
        if file.sha256:
            headers |= {
                "X-Linked-Etag": f'"{file.sha256}"',
                "X-Linked-Size": str(file.size),
                "Location": f"{self.cdn}/cdn/{file.sha256}?file={quote(path)}",
            }
            return Answer(status=302, headers=headers)
        answer = self._send(self._content(file), request, path=path)
        answer.headers |= headers | {"ETag": f'"{file.oid}"'}
        return answer

    def _send(self, content: bytes, request: Request, *, path: str) -> Answer:
        how = self._damage_of(path) if request.method == "GET" else None
        middle = len(content) // 2
        if how == "flipped":
            content = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
        elif how == "short":
            content = content[:middle]
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        body = content
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            if first >= len(content):
                raise Refusal(416, **{"Content-Range": f"bytes */{len(content)}"})
            body, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        answer = Answer(body, status, headers)
        if how == "cut":
            answer.sent_bytes = 0 if asked else len(body) // 2
        return answer

    def _damage_of(self, path: str) -> Damage | None:
        with self._lock:
            how, times = self._damages.get(path, (None, None))
            if times is not None:
                self._damages[path] = (how, times - 1)  # type: ignore[assignment]
                return how if times > 0 else None
            return how

    def cut_of(self, path: str) -> int | None:
        """After how many bytes the upload to this path breaks off."""
        sha256 = path.split("/")[2] if path.startswith("/lfs/") else ""
        if sha256 not in self._cuts:
            return None
        after_bytes, when_stored = self._cuts[sha256]
        deadline = time.monotonic() + 10
        while len(self.large) < when_stored and time.monotonic() < deadline:
            time.sleep(0.01)
        return after_bytes


def _kind(prefix: list[str]) -> str:
    return KINDS[prefix[0]] if prefix else "model"


def _resolved(path: list[str]) -> tuple[str, str, str, str]:
    """`[datasets, ]owner, name, resolve, revision, *file` as kind, id, revision and file."""
    i = path.index("resolve")
    return _kind(path[: i - 2]), "/".join(path[i - 2 : i]), path[i + 1], "/".join(path[i + 2 :])


class _LineCut(Exception):
    """The connection is to be closed without an answer."""


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    name: Literal["hub", "cdn"]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self._received = 0
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, url.path, parse_qs(url.query), headers, 0, self.name)
        answer: Answer | None = None
        try:
            cut = self.hub.cut_of(url.path) if self.command == "PUT" else None
            body = self._read(cut)
            request = request._replace(body_bytes=len(body))
            answer = self.hub.answer(request, body)
        except Refusal as refusal:
            answer = Answer.json({"error": str(refusal)}, refusal.status, **refusal.headers)
        except _LineCut:
            request = request._replace(body_bytes=self._received)
        finally:
            self.hub.requests.append(request)
        if answer is None:
            self._hang_up()
        else:
            self._reply(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read(self, cut: int | None) -> bytes:
        """The whole body, with a length or in chunks; breaks the line after `cut` bytes."""
        pieces: list[bytes] = []

        def take(count: int) -> None:
            while count > 0:
                allowed = count if cut is None else min(count, cut - self._received)
                piece = self.rfile.read(min(allowed, 1 << 16)) if allowed > 0 else b""
                if not piece:
                    raise _LineCut
                pieces.append(piece)
                self._received += len(piece)
                count -= len(piece)

        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                take(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            take(int(self.headers.get("Content-Length") or 0))
        return b"".join(pieces)

    def _reply(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.sent_bytes])
        if answer.sent_bytes is not None:
            self.wfile.flush()
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):  # the client may have left first
            self.connection.shutdown(socket.SHUT_RDWR)
