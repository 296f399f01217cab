"""What a run shows and keeps of itself while it trains."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from rinvid.data.home import whole_file
from rinvid.training.config import RunConfig


def check_finite(step: int, *values: Tensor) -> None:
    """Raise FloatingPointError unless all values are finite."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise FloatingPointError(f"the loss or its gradient is not finite at step {step}; try a smaller optimizer.lr")


class Progress:
    """What a run shows and keeps of itself: the bar, the lines of metrics.jsonl, and the same in TensorBoard.

    Args:
        config: The run.
        path: The metrics.jsonl; lines beyond the step that a run goes on from are dropped.
        accelerator: Its trackers and processes.
        start: Steps that are done already.
    """

    def __init__(self, config: RunConfig, path: Path, accelerator: Accelerator, start: int) -> None:
        self.config, self.path, self.accelerator = config, path, accelerator
        if accelerator.is_main_process:
            kept = [line for line in read_metrics(path) if line["step"] <= start] if start else []
            with whole_file(path) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        accelerator.init_trackers("tensorboard")
        self.bar = tqdm(
            total=config.max_steps,
            initial=start,
            desc="training",
            unit="step",
            disable=not accelerator.is_main_process,
        )
        self._losses: list[Tensor] = []
        self._since = time.perf_counter()

    def add(self, step: int, loss: Tensor, norm: Tensor, lr: float) -> None:
        """Count a step, and every ``log_every`` steps write the means since the last time.

        Values are only read from the device when they are written, so that a step never waits for the one before.

        Raises:
            FloatingPointError: A loss is not finite.
        """
        self._losses.append(loss)
        self.bar.update()
        if step % self.config.log_every and step != self.config.max_steps:
            return
        mean = self.accelerator.reduce(torch.stack(self._losses).mean(), "mean")
        check_finite(step, mean)
        rate = len(self._losses) * self.config.batch_size / (time.perf_counter() - self._since)
        values = {"loss": float(mean), "lr": lr, "grad_norm": float(norm), "clips_per_second": rate}
        self.write(step, values)
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", lr=f"{lr:.1e}", clips_per_s=f"{rate:.0f}")
        self._losses, self._since = [], time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent within the block does not count as training."""
        begin = time.perf_counter()
        yield
        self._since += time.perf_counter() - begin

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line of named numbers."""
        self.accelerator.log(dict(values), step=step)
        if self.accelerator.is_main_process and values:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none if there is no such file. A last line that was cut off is dropped."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
