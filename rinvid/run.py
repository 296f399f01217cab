"""A recipe's main: command line -> data, network, training, evaluation, pictures, in one run folder."""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env, set_seed
from numpy.typing import NDArray
from torch import Tensor

from rinvid import registry
from rinvid.data.clips import Failure, VideoClips, to_model_range
from rinvid.data.decode import choose_backend
from rinvid.data.loader import Loader, held_out
from rinvid.data.videos import Videos, open_videos
from rinvid.evaluation import context_gain, predict_clips
from rinvid.metrics.frames import psnr
from rinvid.models.rin import RINModel
from rinvid.options import Presets, as_plain, parse
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.report import examples_of, finish, write_text
from rinvid.run_folder import claim_run_folder
from rinvid.training.config import Precision, RunConfig
from rinvid.training.loop import Interrupted, Watch, loss_options, train, training_batches
from rinvid.training.optim import learning_rate
from rinvid.visual import save_image, strip

logger = logging.getLogger(__name__)

# So many files that could not be read are named in metrics.json.
_NAMED = 100
# So many are named in the log.
_TOLD = 10
# Errors that say themselves what is wrong; anything else is a defect and keeps its traceback.
USER_ERRORS = (ValueError, TypeError, OSError, FloatingPointError)


def main(presets: Presets, default: str, arguments: list[str] | None = None) -> None:
    """Run a recipe; what is wrong with its input ends in one line and exit status 2.

    Args:
        presets: Values of :class:`rinvid.training.RunConfig` by preset name.
        default: The preset of a run that names none.
        arguments: Command line; None takes the process's own.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        folder = video_prediction(parse(presets, default, arguments))
    except Interrupted as stop:
        if PartialState().is_main_process:
            target = shlex.quote(str(stop.checkpoint.parents[1]))
            print(f"{stop}\nto go on: the same command with --output_dir {target} --resume auto")
        sys.exit(130)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if PartialState().is_main_process:
        print(f"results are in {folder}")


def video_prediction(config: RunConfig) -> Path:
    """Train, sample and evaluate; returns the run folder.

    All that can be wrong with the input is looked at before the folder is made.
    """
    # accelerate joins processes on CPUs only if it is told that it runs on CPUs.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state = PartialState(cpu=cpu)
    _use_all_cores(state)
    set_seed(config.seed)
    choose_backend(config.data.backend)
    model = RINModel(**config.model)
    _validate(config, model, state)
    scheduler = create_scheduler(config)
    with state.main_process_first():
        videos = _open(config, model, state.is_main_process)
    check_classes(model.config.num_classes, videos.classes)
    frames, data = model.config.num_frames, config.data
    clips = VideoClips(videos.parts["train"], frames, data.clips, data.flip, data.crop, replace=True)
    truth = _held_out(config, VideoClips(videos.parts["val"], frames), config.evaluation.num_clips)
    mean = to_model_range(torch.from_numpy(_held_out(config, clips, 256).frames)).mean((0, 2))
    record = as_plain(config)
    folder, resume = claim_run_folder(config, record, state)

    accelerator = Accelerator(
        cpu=cpu, mixed_precision=_precision(config.precision, state.device), log_with="tensorboard", project_dir=folder
    )
    if accelerator.is_main_process:
        _print_summary(config, model, videos, folder, resume)
        write_text(folder / "config.yaml", yaml.safe_dump({**record, "output_dir": None, "resume": "never"}))
    watch = _watcher(config, scheduler, truth, folder)
    batches = training_batches(config, clips, accelerator, resume)
    started = time.perf_counter()
    model = train(config, model, batches, folder, accelerator, record, resume, watch)
    if accelerator.is_main_process:
        seconds = round(time.perf_counter() - started, 1)
        facts = {"data": _data_facts(config, videos, truth, batches), "training_seconds": seconds}
        finish(config, RINVideoPipeline(model, scheduler), truth.frames, mean, folder, facts, truth.labels)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder


class HeldOut(NamedTuple):
    """Clips that are read once: frames uint8 (N, F, H, W, 3), labels for a model with classes, and what is missing."""

    frames: NDArray[np.uint8]
    labels: Tensor | None
    left_out: list[Failure]


def _held_out(config: RunConfig, clips: VideoClips, count: int) -> HeldOut:
    data = config.data
    frames, labels, left_out = held_out(
        clips, count, workers=data.num_workers, start_method=data.start_method, timeout=data.timeout
    )
    return HeldOut(frames, labels if config.model.get("num_classes") else None, left_out)


def check_classes(num_classes: int | None, classes: Sequence[str]) -> None:
    """Refuse data whose classes are not the model's.

    Raises:
        ValueError: Another number of classes, or none.
    """
    if num_classes is not None and len(classes) != num_classes:
        raise ValueError(f"model.num_classes is {num_classes}, the data has {len(classes)} classes")


def _validate(config: RunConfig, model: RINModel, state: PartialState) -> None:
    """What would otherwise fail only after the run folder was made."""
    if config.batch_size % state.num_processes:
        raise ValueError(f"batch_size={config.batch_size} does not divide over {state.num_processes} processes")
    if model.config.num_frames is None:
        raise ValueError("model.num_frames is not set: video prediction needs a video model")
    if model.config.in_channels != 3:
        raise ValueError(f"videos are read as RGB: model.in_channels must be 3, got {model.config.in_channels}")
    height, width = model.frame_size
    if height != width:
        raise ValueError(f"model.sample_size must be square for video files, got {height}x{width}")
    loss_options(config)
    optimizer = config.optimizer
    learning_rate(0, optimizer.lr, optimizer.warmup_steps, config.max_steps, optimizer.schedule)


def create_scheduler(config: RunConfig) -> Any:
    """The sampler of a run; prediction type and input scale are those trained with.

    Raises:
        ValueError: The spec names one of them itself, which could contradict the objective.
    """
    trained = {name: getattr(config.diffusion, name) for name in ("prediction_type", "input_scale", "normalize_input")}
    for name in trained.keys() & config.sampling.scheduler.keys():
        raise ValueError(f"sampling.scheduler sets {name!r}, which is the objective's: set diffusion.{name} instead")
    return registry.schedulers.create(config.sampling.scheduler, **trained)


def _watcher(config: RunConfig, scheduler: Any, truth: HeldOut, folder: Path) -> Watch:
    """Sample strips, how good the samples are, and context gain, with the same clips and noise every time."""
    shown = examples_of(len(truth.frames), 8)
    sampled, labels = truth.frames[shown], truth.labels[shown] if truth.labels is not None else None
    probe = to_model_range(torch.from_numpy(truth.frames[:64]))
    probe_labels = truth.labels[:64] if truth.labels is not None else None

    def watch(step: int, model: RINModel) -> Mapping[str, float]:
        given, values = model.config.context_frames, {}
        if step < config.max_steps:
            pipeline = RINVideoPipeline(model, scheduler)
            steps = config.sampling.num_inference_steps
            predicted = predict_clips(pipeline, sampled, steps, config.seed, labels=labels)
            strips = folder / "strips"
            strips.mkdir(exist_ok=True)
            save_image(strip(sampled[::2], predicted[::2], given), strips / f"step_{step:08d}.png")
            made, real = (to_model_range(torch.from_numpy(clips[:, given:])) for clips in (predicted, sampled))
            values["psnr"] = float(psnr(made, real).mean())
        gains = context_gain(model, probe.to(model.device), loss_options(config), config.seed, probe_labels)
        return values | gains

    return watch


def _open(config: RunConfig, model: RINModel, show_progress: bool) -> Videos:
    data = config.data
    root = Path(data.root) if data.root is not None else registry.datasets.create(data.source)
    videos = open_videos(
        root,
        model.config.num_frames,
        model.frame_size[0],
        data.stride,
        data.fps,
        data.resize,
        data.backend,
        Path(data.index) if data.index else None,
        # A clip cache holds centre crops.
        data.cache_mb if data.crop == "centre" else 0,
        show_progress,
    )
    if show_progress:
        for path, reason in videos.left_out[:_TOLD]:
            logger.warning("left out %s: %s", path, reason)
        if len(videos.left_out) > _TOLD:
            logger.warning("left out %d more; rinvid data scan lists all", len(videos.left_out) - _TOLD)
    return videos


def _print_summary(config: RunConfig, model: RINModel, videos: Videos, folder: Path, resume: Path | None) -> None:
    parameters, left_out = sum(p.numel() for p in model.parameters()), len(videos.left_out)
    counts = ", ".join(f"{len(part)} {name}" for name, part in videos.parts.items())
    counts += f" videos, {left_out} left out" if left_out else " videos"
    print(f"data      {videos.root}: {counts}")
    print(f"          read from {videos.read_as} with {choose_backend(config.data.backend)}")
    print(f"network   {parameters / 1e6:.2f}M parameters, {math.prod(model.grid)} interface tokens")
    print(f"training  {config.max_steps} steps of {config.batch_size} clips, preset {config.preset}")
    print(f"folder    {folder}" + (f", going on from {resume}" if resume else ""), flush=True)


def _data_facts(config: RunConfig, videos: Videos, truth: HeldOut, batches: Loader) -> dict[str, Any]:
    """What was read, and what was not; the first so many files of each kind by name."""
    return {
        "root": config.data.root or dict(config.data.source),
        "fingerprint": videos.fingerprint,
        "videos": {name: len(part) for name, part in videos.parts.items()},
        "left_out": {"count": len(videos.left_out), "first": [list(pair) for pair in videos.left_out[:_NAMED]]},
        "held_out_left_out": [list(failure) for failure in truth.left_out[:_NAMED]],
        "replaced": {"count": batches.replaced, "first": [list(pair) for pair in batches.broken.items()][:_NAMED]},
        "clip_frames": truth.frames.shape[1],
        "fps": config.data.fps,
        "resize": config.data.resize,
    }


def _precision(precision: Precision, device: torch.device) -> str:
    if precision != "auto":
        return precision
    # Small networks on a CPU spend more on casts than bf16 saves.
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def _use_all_cores(state: PartialState) -> None:
    """Undo the single thread that ``accelerate launch`` gives a process unless it is told otherwise."""
    if state.device.type == "cpu" and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        # macOS and Windows know no affinity.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // state.num_processes))
