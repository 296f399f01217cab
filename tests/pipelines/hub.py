"""A Hugging Face hub with one repository, on this machine, as far as loading from it goes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub(folder: Path, repository: str) -> Iterator[str]:
    """Serve the files of ``folder`` as ``repository``; gives the address for HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
            about = f"/api/models/{repository}"
            if path in (about, f"{about}/revision/main", f"{about}/revision/{COMMIT}"):
                siblings = [{"rfilename": name} for name in files]
                self.answer({"id": repository, "sha": COMMIT, "siblings": siblings})
            elif path.startswith(f"{about}/tree/"):
                self.answer(
                    [
                        {"type": "file", "path": name, "size": p.stat().st_size, "oid": _digest(p.read_bytes())}
                        for name, p in files.items()
                    ]
                )
            else:
                name = path.removeprefix(f"/{repository}/resolve/").partition("/")[2]
                self.answer(files[name].read_bytes() if name in files else None)

        def answer(self, content: object) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("ETag", f'"{_digest(body)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def cached(cache: Path, folder: Path, repository: str) -> None:
    """Lay down the files of ``folder`` as the cache of a hub's repository, as they stand after a download."""
    home = cache / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    for path in folder.rglob("*"):
        if path.is_file():
            copy = home / "snapshots" / COMMIT / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
