"""The one training loop: build, resume, loop. What to watch on the way comes in as a callback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rinvid.data.clips import Batch, VideoClips, to_model_range
from rinvid.data.loader import Loader
from rinvid.data.sampler import ResumableSampler
from rinvid.models.rin import RINModel
from rinvid.schedules import create_schedule
from rinvid.seeding import generator
from rinvid.training.checkpoint import Checkpointer
from rinvid.training.config import RunConfig
from rinvid.training.ema import EMA
from rinvid.training.objective import diffusion_loss
from rinvid.training.optim import create_optimizers, learning_rate
from rinvid.training.progress import Progress, check_finite

Watch = Callable[[int, RINModel], Mapping[str, float]]


class Interrupted(Exception):  # noqa: N818 (a request that was met, not an error)
    """Training was asked to stop; the run was saved at ``checkpoint``."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"stopped; saved {checkpoint}")
        self.checkpoint = checkpoint


def train(
    config: RunConfig,
    model: RINModel,
    batches: Iterator[Batch],
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
        batches: Training data from the step on that the run begins at; see :func:`training_batches`.
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
    progress = Progress(config, folder / "metrics.jsonl", accelerator, start)
    # The wrapper averages gradients over processes; names, weights and checkpoints stay those of the bare model.
    wrapped = accelerator.prepare_model(model) if accelerator.num_processes > 1 else model
    options = loss_options(config)
    is_main = accelerator.is_main_process
    model.train()
    with _stop_requests() as stop, progress.bar:
        for step in range(start, config.max_steps):
            lr = learning_rate(step, optimizer.lr, optimizer.warmup_steps, config.max_steps, optimizer.schedule)
            optimizers.set_lr(lr)
            loss = _loss(wrapped, next(batches), options, (config.seed, step), accelerator)
            accelerator.backward(loss)
            norm = nn.utils.clip_grad_norm_(model.parameters(), optimizer.max_grad_norm)
            optimizers.step()
            optimizers.zero_grad()
            ema.update(model)

            done = step + 1
            last = done == config.max_steps
            progress.add(done, loss.detach(), norm, lr)
            if is_main and watch and (last or _every(config.watch_every, done)):
                with ema.averaged(model), progress.paused():
                    progress.write(done, watch(done, model))
            stopping = _anyone(stop(), accelerator) and not last
            if is_main and (last or stopping or _every(config.checkpoint_every, done)):
                with progress.paused():
                    check_finite(done, loss, norm)
                    checkpointer.save(done, model, ema, optimizers, dict(record))
            if stopping:
                accelerator.wait_for_everyone()
                raise Interrupted(checkpointer.path(done))
    model.load_state_dict(ema.state_dict())
    return model.eval()


def _loss(
    model: Any, batch: Batch, options: Mapping[str, Any], seed_and_step: tuple[int, int], accelerator: Accelerator
) -> Tensor:
    """The mean loss of one batch; all that is random in it follows from seed, step and process."""
    key = (*seed_and_step, accelerator.process_index)
    # Dropout draws from the global generator, all else from one of its own.
    torch.manual_seed(generator(*key, 1).initial_seed())
    network = accelerator.unwrap_model(model).config
    given = network.context_frames
    video = to_model_range(batch.samples.to(accelerator.device, non_blocking=True))
    labels = batch.labels.to(accelerator.device, non_blocking=True) if network.num_classes else None
    with accelerator.autocast():
        return diffusion_loss(
            model,
            video[:, :, given:],
            context=video[:, :, :given] if given else None,
            class_labels=labels,
            generator=generator(*key, device=accelerator.device),
            **options,
        )


def _anyone(asked: bool, accelerator: Accelerator) -> bool:
    """Whether any process was asked to stop: all must stop at the same step, or the others wait for ever."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum"))


def _every(interval: int, step: int) -> bool:
    return interval > 0 and step % interval == 0


def loss_options(config: RunConfig) -> dict[str, Any]:
    """The objective's keyword arguments."""
    options = {name: getattr(config.diffusion, name) for name in config.diffusion.__dataclass_fields__}
    options["schedule"] = create_schedule(options["schedule"])
    return options


def training_batches(
    config: RunConfig, clips: VideoClips, accelerator: Accelerator, resume: Path | None = None
) -> Loader:
    """This process's part of the training data, from where the checkpoint ``resume`` was saved."""
    data = config.data
    sampler = ResumableSampler(
        len(clips),
        config.batch_size,
        accelerator.num_processes,
        accelerator.process_index,
        config.seed,
        (Checkpointer.step(resume) if resume else 0) * config.batch_size,
    )
    pinned = accelerator.device.type == "cuda"
    return Loader(clips, sampler, data.num_workers, data.start_method, pinned, data.timeout, data.max_broken)


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
