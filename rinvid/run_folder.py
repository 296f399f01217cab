"""Which folder a run writes into, and where it goes on from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rinvid.training.checkpoint import Checkpointer
from rinvid.training.config import RunConfig

# What a run cannot go on with changed: the result would be neither the old run's nor the new one's.
FIXED = ("model", "diffusion", "optimizer", "batch_size", "seed")


def claim_run_folder(config: RunConfig, record: Mapping[str, Any], state: PartialState) -> tuple[Path, Path | None]:
    """The run folder, made and writable, and the checkpoint to resume from; the same on every process.

    Args:
        config: The run.
        record: The same as plain data, to be compared with a checkpoint's.
        state: The processes.

    Raises:
        FileNotFoundError: The checkpoint named does not exist.
        ValueError: The folder holds another run, or the checkpoint is of a run that differs.
        OSError: The folder cannot be written.
    """
    found: list[Any] = [None]
    if state.is_main_process:
        found[0] = _find(config, record)
    folder, resume = broadcast_object_list(found)[0]
    return folder, resume


def _find(config: RunConfig, record: Mapping[str, Any]) -> tuple[Path, Path | None]:
    folder = Path(config.output_dir or f"runs/{config.preset}")
    resume: Path | None = None
    if config.resume == "auto":
        resume = Checkpointer(folder / "checkpoints").latest()
    elif config.resume != "never":
        resume = Path(config.resume)
        if not (resume / "state.json").is_file():
            raise FileNotFoundError(f"--resume {resume}: not a checkpoint; allowed: auto, never, or the path of one")
        # A checkpoint's own run goes on, unless another folder is named for it.
        own = resume.resolve().parents[1]
        folder = Path(config.output_dir) if config.output_dir else own
        if folder.resolve() != own:
            _refuse_used(folder)
    elif config.output_dir:
        _refuse_used(folder)
    elif _used(folder):
        folder = next(p for n in count(2) if not _used(p := folder.with_name(f"{folder.name}-{n}")))
    if resume:
        _compare(resume, config, record)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"output_dir {folder} cannot be written ({error.strerror})") from error
    return folder, resume


def _used(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _refuse_used(folder: Path) -> None:
    if _used(folder):
        raise ValueError(f"output_dir {folder} holds something already; --resume auto goes on from its checkpoint")


def _compare(checkpoint: Path, config: RunConfig, record: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a run that differs in what decides its result."""
    state = json.loads((checkpoint / "state.json").read_text())
    before = state["config"]
    differing = [key for key in FIXED if before.get(key) != record[key]]
    if differing:
        raise ValueError(f"{checkpoint} is of a run with other settings of {', '.join(differing)}; see its config.yaml")
    if state["step"] > config.max_steps:
        raise ValueError(f"{checkpoint} is at step {state['step']}, beyond max_steps={config.max_steps}")
