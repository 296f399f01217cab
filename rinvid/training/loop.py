"""The one training loop: build, resume, loop. What to watch on the way comes in as a callback."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from rinvid.data.clips import ClipSampler, VideoClips, to_model_range
from rinvid.models.rin import RINModel
from rinvid.schedules import create_schedule
from rinvid.seeding import generator
from rinvid.training.checkpoint import Checkpointer
from rinvid.training.config import RunConfig
from rinvid.training.ema import EMA
from rinvid.training.objective import diffusion_losses
from rinvid.training.optim import create_optimizers, learning_rate

Watch = Callable[[int, RINModel], Mapping[str, float]]


class Interrupted(Exception):  # noqa: N818 (a request that was met, not an error)
    """Training was asked to stop; the run was saved at ``checkpoint``."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"stopped; saved {checkpoint}")
        self.checkpoint = checkpoint


def train(
    config: RunConfig,
    model: RINModel,
    clips: VideoClips,
    folder: Path,
    accelerator: Accelerator,
    record: Mapping[str, Any],
    resume: Path | None = None,
    watch: Watch | None = None,
) -> RINModel:
    """Train ``model`` and return it with its averaged weights.

    Args:
        config: The run.
        model: The network.
        clips: Training clips.
        folder: Run folder; metrics.jsonl, checkpoints and TensorBoard files go there.
        accelerator: Devices, precision and processes.
        record: The configuration as plain data, stored in checkpoints.
        resume: Checkpoint to go on from.
        watch: Called with the step and the averaged model every ``watch_every`` steps and after the last; what it
            returns is logged.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; a checkpoint was saved first.
        FloatingPointError: The loss is not finite.
    """
    optimizer = config.optimizer
    optimizers = create_optimizers(model, optimizer.name, optimizer.weight_decay, optimizer.betas)
    ema = EMA(model.to(accelerator.device), optimizer.ema_decay)
    checkpointer = Checkpointer(folder / "checkpoints", config.keep_checkpoints)
    start = Checkpointer.load(resume, model, ema, optimizers) if resume else 0
    log = MetricsLog(folder / "metrics.jsonl", accelerator, start)
    batches = _batches(config, clips, accelerator, start)
    # The wrapper averages gradients over processes; names, weights and checkpoints stay those of the bare model.
    wrapped = accelerator.prepare_model(model) if accelerator.num_processes > 1 else model
    context_frames = model.config.context_frames
    options = loss_options(config)
    is_main = accelerator.is_main_process
    bar = tqdm(total=config.max_steps, initial=start, desc="training", unit="step", disable=not is_main)
    losses: list[Tensor] = []
    since = time.perf_counter()

    with _stop_requests() as stop, bar:
        model.train()
        for step in range(start, config.max_steps):
            lr = learning_rate(step + 1, optimizer.lr, optimizer.warmup_steps, config.max_steps, optimizer.schedule)
            optimizers.set_lr(lr)
            # Dropout draws from the global generator.
            torch.manual_seed(generator(config.seed, step, accelerator.process_index, 1).initial_seed())
            video = to_model_range(next(batches).to(accelerator.device, non_blocking=True))
            with accelerator.autocast():
                loss = diffusion_losses(
                    wrapped,
                    video[:, :, context_frames:],
                    context=video[:, :, :context_frames] if context_frames else None,
                    generator=generator(config.seed, step, accelerator.process_index, device=accelerator.device),
                    **options,
                ).loss.mean()
            accelerator.backward(loss)
            norm = nn.utils.clip_grad_norm_(model.parameters(), optimizer.max_grad_norm)
            optimizers.step()
            optimizers.zero_grad()
            ema.update(model)
            losses.append(loss.detach())
            bar.update()

            done = step + 1
            last = done == config.max_steps
            if done % config.log_every == 0 or last:
                mean = accelerator.reduce(torch.stack(losses).mean(), "mean").item()
                if not np.isfinite(mean):
                    raise FloatingPointError(f"the loss is {mean} near step {done}; try a smaller optimizer.lr")
                now = time.perf_counter()
                rate = len(losses) * config.batch_size / (now - since)
                log.write(done, {"loss": mean, "lr": lr, "grad_norm": float(norm), "clips_per_second": rate})
                bar.set_postfix(loss=f"{mean:.4f}", lr=f"{lr:.1e}", clips_per_s=f"{rate:.0f}")
                losses, since = [], now
            if is_main and watch and (last or (config.watch_every and done % config.watch_every == 0)):
                with ema.averaged(model):
                    log.write(done, watch(done, model))
                since = time.perf_counter()
            stopping = stop() and not last
            if is_main and (last or stopping or (config.checkpoint_every and done % config.checkpoint_every == 0)):
                if not (loss.isfinite() and norm.isfinite()):
                    raise FloatingPointError(f"the loss is {loss.item()} at step {done}; try a smaller optimizer.lr")
                checkpointer.save(done, model, ema, optimizers, dict(record))
                since = time.perf_counter()
            if stopping:
                raise Interrupted(checkpointer.path(done))
    accelerator.end_training()
    model.load_state_dict(ema.state_dict())
    return model.eval()


class MetricsLog:
    """Lines of metrics.jsonl, and the same numbers in TensorBoard; lines beyond the resumed step are dropped."""

    def __init__(self, path: Path, accelerator: Accelerator, start: int) -> None:
        self.path, self.accelerator = path, accelerator
        if accelerator.is_main_process:
            kept = [line for line in read_metrics(path) if line["step"] <= start] if start else []
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        accelerator.init_trackers("tensorboard")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.accelerator.log(dict(values), step=step)
        if self.accelerator.is_main_process and values:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def loss_options(config: RunConfig) -> dict[str, Any]:
    """The objective's keyword arguments."""
    options = {name: getattr(config.diffusion, name) for name in config.diffusion.__dataclass_fields__}
    options["schedule"] = create_schedule(options["schedule"])
    return options


def _batches(config: RunConfig, clips: VideoClips, accelerator: Accelerator, start: int) -> Iterator[Tensor]:
    sampler = ClipSampler(
        len(clips), config.batch_size, accelerator.num_processes, accelerator.process_index, config.seed, start
    )
    return iter(
        DataLoader(
            clips,
            batch_sampler=sampler,
            num_workers=config.data.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            timeout=120 if config.data.num_workers else 0,
            # A forked process inherits the locks of decoder threads; a new one does not.
            multiprocessing_context="spawn" if config.data.num_workers else None,
        )
    )


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question to be asked between steps; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("\nstopping after this step and saving; once more to stop at once", file=sys.stderr)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
