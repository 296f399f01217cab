"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all. No pickle."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rinvid.data.home import whole_folder
from rinvid.training.ema import EMA
from rinvid.training.optim import Optimizers

_NAME = re.compile(r"step_(\d{8})")


@dataclass(frozen=True)
class Checkpointer:
    """Saves and finds the checkpoints of one run.

    Attributes:
        folder: Where they lie, as ``step_00001000`` and so on.
        keep: How many of the last ones stay.
    """

    folder: Path
    keep: int = 2

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[tuple[int, Path]]:
        """Complete checkpoints, by step."""
        found = [(_NAME.fullmatch(p.name), p) for p in self.folder.glob("step_*")]
        return sorted((int(match.group(1)), path) for match, path in found if match)

    def latest(self) -> Path | None:
        """The last complete checkpoint, if there is one."""
        steps = self.steps()
        return steps[-1][1] if steps else None

    def save(self, step: int, model: nn.Module, ema: EMA, optimizers: Optimizers, config: dict[str, Any]) -> Path:
        """Save everything that resuming needs, then drop the oldest checkpoints."""
        with whole_folder(self.path(step), replace=True) as temporary:
            save_file(_contiguous(model.state_dict()), temporary / "model.safetensors")
            save_file(_contiguous(ema.state_dict()), temporary / "ema.safetensors")
            save_file(_contiguous(optimizers.tensors()), temporary / "optimizer.safetensors")
            (temporary / "state.json").write_text(json.dumps({"step": step, "config": config}, indent=2))
        # Later ones are of a course that this run has left by resuming before them.
        left = [path for found, path in self.steps() if found > step]
        older = [path for found, path in self.steps() if found <= step][: -self.keep]
        for path in left + older:
            shutil.rmtree(path)
        return self.path(step)

    @staticmethod
    def load(path: Path, model: nn.Module, ema: EMA, optimizers: Optimizers) -> int:
        """Load a checkpoint into the run's objects; returns the step it was saved at.

        Raises:
            FileNotFoundError: ``path`` is not a checkpoint.
            ValueError: The checkpoint is of another network.
        """
        step = Checkpointer.step(path)
        try:
            model.load_state_dict(load_file(path / "model.safetensors"))
            ema.load_state_dict(load_file(path / "ema.safetensors"))
            optimizers.load_tensors(load_file(path / "optimizer.safetensors"))
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ValueError(f"{path}: is of another network than this run's ({reason})") from error
        except SafetensorError as error:
            raise ValueError(f"{path}: is damaged ({error})") from error
        return step

    @staticmethod
    def step(path: Path) -> int:
        """The step that a checkpoint was saved at.

        Raises:
            FileNotFoundError: ``path`` is not a checkpoint.
        """
        if not (path / "state.json").is_file():
            raise FileNotFoundError(f"{path}: not a checkpoint (a folder that holds state.json)")
        return int(json.loads((path / "state.json").read_text())["step"])


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
