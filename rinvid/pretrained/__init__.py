"""Small trained pipelines that come with the package, checked before they are used."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path


def pretrained_folder(name: str) -> Path:
    """The folder of a shipped pipeline, for ``from_pretrained``.

    Args:
        name: For example "digits".

    Raises:
        FileNotFoundError: No pipeline of that name is shipped.
        ValueError: Its weights are not those that were shipped.
    """
    folder = Path(str(files("rinvid.pretrained").joinpath(name)))
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        known = sorted(p.parent.name for p in folder.parent.glob("*/SHA256SUMS"))
        raise FileNotFoundError(
            f"no pretrained pipeline {name!r} comes with rinvid; known: {', '.join(known) or 'none'}"
        )
    for line in sums.read_text().splitlines():
        digest, file = line.split(maxsplit=1)
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{folder / file} is damaged: its SHA-256 is not {digest}; reinstall rinvid")
    return folder
