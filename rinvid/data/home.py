"""Where rinvid keeps what it makes, and how folders and files are made whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def home() -> Path:
    """The cache folder: the environment variable RINVID_HOME, or ~/.cache/rinvid."""
    return Path(os.environ.get("RINVID_HOME") or Path.home() / ".cache" / "rinvid").expanduser()


@contextmanager
def whole_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its name when the block ends without an error.

    Args:
        target: The folder to make.
        replace: Take the place of a folder that is there; otherwise that one stays and ours is dropped, as when
            another process has made it in the meantime.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target``, with its suffix, that takes its name when the block ends without an error."""
    temporary = target.with_name(f".{target.stem}-{os.getpid()}{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
