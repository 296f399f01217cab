"""Which folder a run writes into, and where it goes on from."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rinvid.training.checkpoint import Checkpointer
from rinvid.training.config import RunConfig


def claim_run_folder(config: RunConfig, state: PartialState) -> tuple[Path, Path | None]:
    """The run folder, made and writable, and the checkpoint to resume from; the same on every process.

    Raises:
        FileNotFoundError: The checkpoint named does not exist.
        ValueError: The folder holds something and nothing was said about resuming.
        OSError: The folder cannot be written.
    """
    found: list[Any] = [None]
    if state.is_main_process:
        found[0] = _find(config)
    folder, resume = broadcast_object_list(found)[0]
    return folder, resume


def _find(config: RunConfig) -> tuple[Path, Path | None]:
    resume: Path | None = None
    if config.resume not in ("auto", "never"):
        resume = Path(config.resume)
        if not (resume / "state.json").is_file():
            raise FileNotFoundError(f"--resume {resume}: not a checkpoint; allowed: auto, never, or the path of one")
    folder = Path(config.output_dir or f"runs/{config.preset}")
    if config.resume == "auto":
        resume = Checkpointer(folder / "checkpoints").latest()
    elif config.resume == "never" and folder.is_dir() and any(folder.iterdir()):
        if config.output_dir is not None:
            raise ValueError(f"output_dir {folder} holds something already; --resume auto goes on from its checkpoint")
        folder = next(p for n in count(2) if not (p := folder.with_name(f"{folder.name}-{n}")).exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"output_dir {folder} cannot be written ({error.strerror})") from error
    return folder, resume
