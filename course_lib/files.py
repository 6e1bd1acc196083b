"""Files: written whole or not at all, read only with the right hash, fetched when missing."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import tempfile
import urllib.request
from pathlib import Path


def write_json(path: Path, value: object) -> Path:
    """Write a JSON file as a whole or not at all."""
    return write(path, (json.dumps(value, indent=1) + "\n").encode())


def write(path: Path, content: bytes) -> Path:
    """Write a file as a whole or not at all, and its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        try:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
            os.chmod(part.name, 0o644)
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise
    return path


def verified(file: Path, sha256: str | None, advice: str) -> bytes:
    """The bytes of a file that has the right hash.

    Raises: RuntimeError with the file's name and the advice for one that is missing or damaged.
    """
    if not file.exists():
        raise RuntimeError(f"the weights file {file} is missing: {advice}")
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RuntimeError(f"the weights file {file} is damaged (its sha256 is wrong): {advice}")
    return content


def download(url: str, path: Path, sha256: str, *, timeout: float = 30) -> Path:
    """Fetch a file unless it is there; `path` appears only when complete and with the right hash.

    Raises: OSError when the connection fails, breaks off, or brings something else.
    """
    if path.exists() and sha256_of(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer, open(part, "wb") as file:
            while chunk := answer.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
        # A server that hangs up early looks like an ordinary end: only the hash tells.
        if digest.hexdigest() != sha256:
            raise OSError(f"{path.name} arrived broken or incomplete")
        part.replace(path)
    except http.client.HTTPException as error:
        raise OSError(f"{path.name}: {error!r}") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
