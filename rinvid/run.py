"""A recipe's main: command line -> data, network, training, evaluation, pictures, in one run folder."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env, set_seed
from numpy.typing import NDArray

from rinvid import registry
from rinvid.data.clips import VideoClips, to_model_range
from rinvid.data.decode import claim_backend
from rinvid.data.index import Video, VideoIndex, index_videos
from rinvid.evaluation import context_gain, held_out_clips, predict_clips
from rinvid.metrics.frames import psnr
from rinvid.models.rin import RINModel
from rinvid.options import Presets, as_plain, parse
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.report import examples_of, finish, write_text
from rinvid.run_folder import claim_run_folder
from rinvid.training.config import Precision, RunConfig
from rinvid.training.loop import Interrupted, Watch, loss_options, train
from rinvid.training.optim import learning_rate
from rinvid.visual import save_image, strip

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
    claim_backend(config.data.backend)
    model = RINModel(**config.model)
    _validate(config, model, state)
    scheduler = create_scheduler(config)
    with state.main_process_first():
        index = _index(config, model, state.is_main_process)
    train_clips = _clips(config, model, index, "train")
    val_clips = _clips(config, model, index, "val")
    if not config.data.num_workers and train_clips.decoded_bytes <= config.data.cache_mb * 2**20:
        train_clips.decode_all(show_progress=state.is_main_process)
    mean = train_clips.mean_frame()
    truth = held_out_clips(val_clips, config.evaluation.num_clips)
    record = as_plain(config)
    folder, resume = claim_run_folder(config, record, state)

    accelerator = Accelerator(
        cpu=cpu, mixed_precision=_precision(config.precision, state.device), log_with="tensorboard", project_dir=folder
    )
    if accelerator.is_main_process:
        _print_summary(config, model, index, [train_clips, val_clips], folder, resume)
        write_text(folder / "config.yaml", yaml.safe_dump({**record, "output_dir": None, "resume": "never"}))
    watch = _watcher(config, scheduler, truth, folder)
    started = time.perf_counter()
    model = train(config, model, train_clips, folder, accelerator, record, resume, watch)
    if accelerator.is_main_process:
        seconds = round(time.perf_counter() - started, 1)
        facts = {"data": _data_facts(config, index, [train_clips, val_clips]), "training_seconds": seconds}
        finish(config, RINVideoPipeline(model, scheduler), truth, mean, folder, facts)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder


def _validate(config: RunConfig, model: RINModel, state: PartialState) -> None:
    """What would otherwise fail only after the run folder was made."""
    if config.batch_size % state.num_processes:
        raise ValueError(f"batch_size={config.batch_size} does not divide over {state.num_processes} processes")
    if model.config.num_frames is None:
        raise ValueError("model.num_frames is not set: video prediction needs a video model")
    if model.config.in_channels != 3 or model.config.num_classes is not None:
        raise ValueError("videos are read as RGB without labels: model.in_channels must be 3, model.num_classes null")
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


def _watcher(config: RunConfig, scheduler: Any, truth: NDArray[np.uint8], folder: Path) -> Watch:
    """Sample strips, how good the samples are, and context gain, with the same clips and noise every time."""
    sampled = truth[examples_of(len(truth), 8)]
    probe = to_model_range(torch.from_numpy(truth[:64]))

    def watch(step: int, model: RINModel) -> Mapping[str, float]:
        given, values = model.config.context_frames, {}
        if step < config.max_steps:
            pipeline = RINVideoPipeline(model, scheduler)
            predicted = predict_clips(pipeline, sampled, config.sampling.num_inference_steps, config.seed)
            strips = folder / "strips"
            strips.mkdir(exist_ok=True)
            save_image(strip(sampled[::2], predicted[::2], given), strips / f"step_{step:08d}.png")
            made, real = (to_model_range(torch.from_numpy(clips[:, given:])) for clips in (predicted, sampled))
            values["psnr"] = float(psnr(made, real).mean())
        return values | context_gain(model, probe.to(model.device), loss_options(config), config.seed)

    return watch


def _index(config: RunConfig, model: RINModel, show_progress: bool) -> VideoIndex:
    data = config.data
    root = Path(data.root) if data.root is not None else registry.datasets.create(data.source)
    needed = (model.config.num_frames - 1) * config.data.stride + 1
    return index_videos(root, needed, config.data.backend, show_progress)


def _clips(config: RunConfig, model: RINModel, index: VideoIndex, split: str) -> VideoClips:
    height, width = model.frame_size
    if height != width:
        raise ValueError(f"model.sample_size must be square for video files, got {height}x{width}")
    data = config.data
    return VideoClips(index.root, index.usable[split], model.config.num_frames, data.stride, height, data.backend)


def _left_out(index: VideoIndex, clips: Sequence[VideoClips]) -> list[Video]:
    """What the probe left out, and what turned out broken when it was read."""
    return [*index.left_out, *(video for part in clips for video in part.left_out)]


def _print_summary(
    config: RunConfig,
    model: RINModel,
    index: VideoIndex,
    clips: Sequence[VideoClips],
    folder: Path,
    resume: Path | None,
) -> None:
    train_clips, val_clips = clips
    parameters = sum(p.numel() for p in model.parameters())
    backend, left_out = claim_backend(config.data.backend), len(_left_out(index, clips))
    videos = f"{len(train_clips)} train, {len(val_clips)} val videos" + (f", {left_out} left out" if left_out else "")
    print(f"data      {index.root}: {videos}, read with {backend}")
    print(f"network   {parameters / 1e6:.2f}M parameters, {math.prod(model.grid)} interface tokens")
    print(f"training  {config.max_steps} steps of {config.batch_size} clips, preset {config.preset}")
    print(f"folder    {folder}" + (f", going on from {resume}" if resume else ""), flush=True)


def _data_facts(config: RunConfig, index: VideoIndex, clips: Sequence[VideoClips]) -> dict[str, Any]:
    train_clips, val_clips = clips
    return {
        "root": config.data.root or dict(config.data.source),
        "fingerprint": index.fingerprint,
        "videos": {"train": len(train_clips), "val": len(val_clips)},
        "left_out": [dataclasses.asdict(video) for video in _left_out(index, clips)],
        "clip_frames": train_clips.num_frames,
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
