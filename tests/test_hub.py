"""Checkpoints travel over a Hub byte by byte, by a server that speaks its protocol."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

import bittern

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


class Hub(BaseHTTPRequestHandler):
    """The few endpoints of the Hub that downloads and uploads use; repositories are in memory."""

    commits: ClassVar[dict[str, dict[str, bytes]]] = {}  # files by commit
    heads: ClassVar[dict[str, str]] = {}  # commit by "org/name@revision"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tell(self, data: object) -> None:
        self.answer(200, json.dumps(data).encode(), Content_Type="application/json")

    def commit_of(self, repository: str, revision: str) -> str | None:
        return self.heads.get(f"{repository}@{revision}") or (
            revision if revision in self.commits else None
        )

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository = "/".join(parts[2:4])
            revision = parts[5] if len(parts) > 5 else "main"
            commit = self.commit_of(repository, revision)
            if commit is None:
                self.answer(404, b"{}", X_Error_Code="RepoNotFound")
            elif parts[4:5] == ["tree"]:
                files = self.commits[commit].items()
                self.tell(
                    [
                        {"type": "file", "path": n, "size": len(d), "oid": sha1(d).hexdigest()}
                        for n, d in files
                    ]
                )
            else:
                names = [{"rfilename": name} for name in self.commits[commit]]
                self.tell({"id": repository, "sha": commit, "siblings": names, "private": False})
            return
        commit = self.commit_of("/".join(parts[:2]), parts[3])
        data = self.commits.get(commit or "", {}).get("/".join(parts[4:]))
        if data is None:
            self.answer(404, X_Error_Code="EntryNotFound")
        else:
            etag = f'"{sha1(data).hexdigest()}"'
            self.answer(200, data, ETag=etag, X_Repo_Commit=commit or "", Accept_Ranges="bytes")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        body = b"".join(self.chunks()) if chunked else self.rfile.read(length)
        if self.path == "/api/repos/create":
            self.tell({"url": f"http://{self.headers['Host']}/org/name", "id": "org/name"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            told = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.tell({"files": [{"path": name} | told for name in names]})
        elif "/commit/" in self.path:
            rows = [json.loads(line) for line in body.splitlines()]
            files = {
                row["value"]["path"]: base64.b64decode(row["value"]["content"])
                for row in rows
                if row["key"] == "file"
            }
            repository = "/".join(self.path.split("/")[3:5])
            commit = sha1(body).hexdigest()
            self.commits[commit] = files
            self.heads[f"{repository}@main"] = commit
            url = f"http://{self.headers['Host']}/{repository}/commit/{commit}"
            self.tell({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})
        else:
            self.tell({})

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def run(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess:
    """A program in a process of its own, where the Hub's settings are read anew."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    told = {"HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=kept | told | environment,
    )


PUSH = """
import sys
from bittern.cli import main
sys.exit(main(["push", {!r}, "org/name", "--private"]))
"""
LOAD = """
from bittern import checkpoint
found = checkpoint.load({!r})  # what `bittern.load` begins with
print(found.folder, found.fingerprint.hex(), sep="\\n")
"""

TRY = """
import sys
from bittern import checkpoint, errors
try:
    checkpoint.load({!r})
except errors.CodecError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def pushed(endpoint, tiny_checkpoint, tmp_path_factory) -> str:
    """The commit of a checkpoint that was pushed."""
    (tiny_checkpoint / "notes.txt").write_text("stays at home")
    home = tmp_path_factory.mktemp("home")
    done = run(PUSH.format(str(tiny_checkpoint)), home, HF_ENDPOINT=endpoint, HF_TOKEN="hf_x")
    (tiny_checkpoint / "notes.txt").unlink()
    assert done.returncode == 0, done.stderr
    assert "has no README.md; write one" in done.stderr
    return done.stdout.strip().rsplit("/", 1)[-1]


def test_what_is_pushed_is_the_checkpoint_s_files_and_nothing_else(pushed, tiny_checkpoint):
    files = Hub.commits[pushed]
    assert set(files) == {"config.json", "model.safetensors"}
    assert all((tiny_checkpoint / name).read_bytes() == data for name, data in files.items())


def test_an_id_loads_the_same_weights_and_then_also_offline(pushed, endpoint, tiny_codec, tmp_path):
    for name in ("org/name", f"org/name@{pushed}"):
        done = run(LOAD.format(name), tmp_path, HF_ENDPOINT=endpoint)
        assert done.returncode == 0, done.stderr
        folder, fingerprint = done.stdout.split()
        assert fingerprint == tiny_codec.fingerprint.hex()
        assert str(tmp_path) in folder
        assert bittern.load(folder, "cpu").fingerprint == tiny_codec.fingerprint
        offline = run(LOAD.format(name), tmp_path, HF_HUB_OFFLINE="1")
        assert offline.stdout == done.stdout


def test_a_revision_stays_what_it_was(pushed, endpoint, other_checkpoint, tiny_codec, tmp_path):
    done = run(PUSH.format(str(other_checkpoint)), tmp_path, HF_ENDPOINT=endpoint, HF_TOKEN="x")
    assert done.returncode == 0, done.stderr
    new = run(LOAD.format("org/name"), tmp_path, HF_ENDPOINT=endpoint).stdout.split()[-1]
    old = run(LOAD.format(f"org/name@{pushed}"), tmp_path, HF_ENDPOINT=endpoint).stdout.split()[-1]
    assert old == tiny_codec.fingerprint.hex() != new


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("org/unknown", {}, "cannot be had from the Hub"),
        ("org/unknown@v1", {}, "cannot be had from the Hub at 'v1'"),
        ("org/unknown", {"HF_HUB_OFFLINE": "1"}, "cannot be had from the Hub"),
        ("org/unknown", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be had from the Hub"),
        ("./org/name", {}, "neither a folder"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(name, environment, message, endpoint, tmp_path):
    done = run(TRY.format(name), tmp_path, **({"HF_ENDPOINT": endpoint} | environment))
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert message in line
