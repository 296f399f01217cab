"""A recipe's main: command line -> data, network, training, evaluation, pictures, in one run folder."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, set_seed
from jsonargparse import ArgumentError, ArgumentParser
from numpy.typing import NDArray
from torch import Tensor, nn

from rinvid import registry
from rinvid.data.clips import VideoClips, to_model_range
from rinvid.data.decode import claim_backend
from rinvid.data.home import whole_file, whole_folder
from rinvid.data.index import VideoIndex, index_videos
from rinvid.evaluation import context_gain, held_out_clips, predict_clips, score_clips
from rinvid.models.rin import RINModel
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.training.checkpoint import Checkpointer
from rinvid.training.config import (
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    OptimizerConfig,
    Precision,
    RunConfig,
    SamplingConfig,
)
from rinvid.training.loop import Interrupted, Watch, loss_options, read_metrics, train
from rinvid.visual import comparison, plot_training, save_gif, save_image, save_mp4, strip

Presets = Mapping[str, Mapping[str, Any]]

GROUPS = {
    "data": DataConfig,
    "diffusion": DiffusionConfig,
    "optimizer": OptimizerConfig,
    "sampling": SamplingConfig,
    "evaluation": EvaluationConfig,
}

logger = logging.getLogger(__name__)

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
    config = parse(presets, default, arguments)
    try:
        folder = video_prediction(config)
    except Interrupted as stop:
        print(f"{stop}\nto go on: the same command with --output_dir {stop.checkpoint.parents[1]} --resume auto")
        sys.exit(130)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"results are in {folder}")


def parse(presets: Presets, default: str, arguments: list[str] | None = None) -> RunConfig:
    """The run that a command line asks for: preset, then --config file, then single options.

    An unknown key or a value of the wrong type ends the program with one line and status 2.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--preset")
    chooser.add_argument("--config")
    chosen, _ = chooser.parse_known_args(arguments)
    preset = chosen.preset or _preset_of_file(chosen.config) or default
    if preset not in presets:
        _fail(f"unknown preset {preset!r}; known: {', '.join(presets)}")

    parser = ArgumentParser(description="Train, sample and evaluate a RIN on video.", exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file, for example runs/x/config.yaml of another run")
    parser.add_argument("--preset", type=str, default=preset, help=f"where to start from: {', '.join(presets)}")
    parser.add_class_arguments(RINModel, "model", instantiate=False)
    for name, group in GROUPS.items():
        parser.add_class_arguments(group, name, instantiate=False)
    parser.add_class_arguments(RunConfig, None, skip={"preset", "model", *GROUPS}, instantiate=False)
    parser.set_defaults(_flat(presets[preset]))
    try:
        values = parser.parse_args(arguments).as_dict()
    except ArgumentError as error:
        _fail(" ".join(str(error).split()))
    values.pop("config")
    groups = {name: group(**values.pop(name)) for name, group in GROUPS.items()}
    return RunConfig(**values, **groups)


def video_prediction(config: RunConfig) -> Path:
    """Train, sample and evaluate; returns the run folder.

    All that can be wrong with the input is looked at before the folder is made.
    """
    state = PartialState()
    _use_all_cores(state)
    set_seed(config.seed)
    claim_backend(config.data.backend)
    model = RINModel(**config.model)
    if model.config.num_frames is None:
        raise ValueError("model.num_frames is not set: video prediction needs a video model")
    scheduler = create_scheduler(config)
    with state.main_process_first():
        index = _index(config, model, state.is_main_process)
    train_clips = _clips(config, model, index, "train")
    val_clips = _clips(config, model, index, "val")
    folder, resume = _run_folder(config, state)

    accelerator = Accelerator(
        mixed_precision=_precision(config.precision, state.device), log_with="tensorboard", project_dir=folder
    )
    record = as_plain(config)
    if accelerator.is_main_process:
        _print_summary(config, model, index, folder, resume)
        _write_text(folder / "config.yaml", yaml.safe_dump({**record, "output_dir": None, "resume": "never"}))
    if not config.data.num_workers and train_clips.decoded_bytes <= config.data.cache_mb * 2**20:
        train_clips.decode_all(show_progress=accelerator.is_main_process)
    truth = held_out_clips(val_clips, config.evaluation.num_clips)
    watch = _watcher(config, scheduler, truth, folder)
    started = time.perf_counter()
    model = train(config, model, train_clips, folder, accelerator, record, resume, watch)
    if accelerator.is_main_process:
        facts = {"data": _data_facts(index, train_clips), "training_seconds": round(time.perf_counter() - started, 1)}
        finish(config, RINVideoPipeline(model, scheduler), truth, mean_frame(train_clips), folder, facts)
    accelerator.wait_for_everyone()
    return folder


def finish(
    config: RunConfig,
    pipeline: RINVideoPipeline,
    truth: NDArray[np.uint8],
    mean: Tensor,
    folder: Path,
    facts: Mapping[str, Any],
) -> None:
    """Save the pipeline, evaluate it on val clips, and write metrics.json and the pictures."""
    with whole_folder(folder / "pipeline", replace=True) as temporary:
        pipeline.save_pretrained(temporary)
    predicted = predict_clips(
        pipeline, truth, config.sampling.num_inference_steps, config.seed, config.evaluation.batch_size
    )
    given = pipeline.model.config.context_frames
    metrics = {
        **score_clips(truth, predicted, given, mean),
        "protocol": {
            "clips": len(truth),
            "frames": truth.shape[1],
            "context_frames": given,
            "size": truth.shape[2],
            "split": "val",
            "stride": config.data.stride,
            "weights": f"EMA, decay {config.optimizer.ema_decay}",
            "scheduler": type(pipeline.scheduler).__name__,
            "noise_schedule": dict(pipeline.scheduler.config.schedule),
            "num_inference_steps": config.sampling.num_inference_steps,
            "seed": config.seed,
            "steps_trained": config.max_steps,
        },
        **facts,
        "versions": versions(),
    }
    _write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    save_comparison(truth, predicted, given, config.evaluation.num_examples, folder)
    plot_training(read_metrics(folder / "metrics.jsonl"), folder / "loss.png")
    print_scores(metrics)


def save_comparison(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], context_frames: int, examples: int, folder: Path
) -> None:
    """samples.gif and samples.mp4: context | truth | prediction of the first clips."""
    video = comparison(truth[:examples], predicted[:examples], context_frames)
    save_gif(video, folder / "samples.gif")
    save_mp4(video, folder / "samples.mp4")


def print_scores(metrics: Mapping[str, Any]) -> None:
    """The scores as a small table."""
    count = metrics["protocol"]["clips"]
    print(f"\npredicted frames of {count} val clips    PSNR dB    SSIM")
    for name in ("prediction", "copy_last_frame", "mean_context_frame", "mean_frame"):
        if name in metrics:
            label = name.replace("_", " ")
            print(f"  {label:<34} {metrics[name]['psnr']:>8.2f} {metrics[name]['ssim']:>7.3f}")
    if "frechet_random3d" in metrics:
        print(f"  frechet_random3d (random features, not FVD): {metrics['frechet_random3d']:.4g}")


def create_scheduler(config: RunConfig) -> Any:
    """The sampler of a run; prediction type and input scale are those trained with.

    Raises:
        ValueError: The spec names one of them itself, which could contradict the objective.
    """
    trained = {name: getattr(config.diffusion, name) for name in ("prediction_type", "input_scale", "normalize_input")}
    for name in trained.keys() & config.sampling.scheduler.keys():
        raise ValueError(f"sampling.scheduler sets {name!r}, which is the objective's: set diffusion.{name} instead")
    return registry.schedulers.create(config.sampling.scheduler, **trained)


def mean_frame(clips: VideoClips, videos: int = 256) -> Tensor:
    """Mean of the first frames of up to ``videos`` training videos, (3, H, W) in [-1, 1]."""
    windows = [clips.window(number, start) for number, start in clips.spread(min(videos, len(clips)))]
    return to_model_range(torch.stack(windows)).mean((0, 2))


def versions() -> dict[str, str]:
    """Versions of what a number depends on, and the machine."""
    packages = ("rinvid", "torch", "diffusers", "accelerate", "torchmetrics")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {name: version(name) for name in packages} | {"python": platform.python_version(), "device": device}


def as_plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain JSON and YAML data."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def _watcher(config: RunConfig, scheduler: Any, truth: NDArray[np.uint8], folder: Path) -> Watch:
    """Sample strips and context gain, with the same clips and noise every time."""
    shown = truth[:4]
    probe = to_model_range(torch.from_numpy(truth[:64]))

    def watch(step: int, model: nn.Module) -> Mapping[str, float]:
        if step < config.max_steps:
            pipeline = RINVideoPipeline(model, scheduler)
            predicted = predict_clips(pipeline, shown, config.sampling.num_inference_steps, config.seed)
            strips = folder / "strips"
            strips.mkdir(exist_ok=True)
            save_image(strip(shown, predicted, model.config.context_frames), strips / f"step_{step:08d}.png")
        return context_gain(model, probe.to(model.device), loss_options(config), config.seed)

    return watch


def _index(config: RunConfig, model: RINModel, show_progress: bool) -> VideoIndex:
    if config.data.stride < 1:
        raise ValueError(f"data.stride must be at least 1, got {config.data.stride}")
    if config.data.root is not None:
        root = Path(config.data.root).expanduser()
    else:
        root = registry.datasets.create(config.data.source)
    needed = (model.config.num_frames - 1) * config.data.stride + 1
    return index_videos(root, needed, config.data.backend, show_progress)


def _clips(config: RunConfig, model: RINModel, index: VideoIndex, split: str) -> VideoClips:
    height, width = model.frame_size
    if height != width:
        raise ValueError(f"model.sample_size must be square for video files, got {height}x{width}")
    data = config.data
    return VideoClips(index.root, index.usable[split], model.config.num_frames, data.stride, height, data.backend)


def _run_folder(config: RunConfig, state: PartialState) -> tuple[Path, Path | None]:
    """The run folder, made and writable, and the checkpoint to resume from."""
    found: list[Any] = [None]
    if state.is_main_process:
        found[0] = _find_run_folder(config)
    folder, resume = broadcast_object_list(found)[0]
    return folder, resume


def _find_run_folder(config: RunConfig) -> tuple[Path, Path | None]:
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
        with whole_file(folder / "config.yaml") as probe:
            probe.touch()
    except OSError as error:
        raise OSError(f"output_dir {folder} cannot be written ({error.strerror})") from error
    return folder, resume


def _print_summary(config: RunConfig, model: RINModel, index: VideoIndex, folder: Path, resume: Path | None) -> None:
    sizes = ", ".join(f"{len(videos)} {split}" for split, videos in index.usable.items())
    parameters = sum(p.numel() for p in model.parameters())
    left_out = f", {len(index.left_out)} left out" if index.left_out else ""
    print(f"data      {index.root}: {sizes} videos{left_out}, read with {claim_backend(config.data.backend)}")
    print(f"network   {parameters / 1e6:.2f}M parameters, {math.prod(model.grid)} interface tokens")
    print(f"training  {config.max_steps} steps of {config.batch_size} clips, preset {config.preset}")
    print(f"folder    {folder}" + (f", going on from {resume}" if resume else ""), flush=True)


def _data_facts(index: VideoIndex, clips: VideoClips) -> dict[str, Any]:
    return {
        "root": str(index.root),
        "fingerprint": index.fingerprint,
        "videos": {split: len(videos) for split, videos in index.usable.items()},
        "left_out": [dataclasses.asdict(video) for video in index.left_out],
        "clip_frames": clips.num_frames,
    }


def _precision(precision: Precision, device: torch.device) -> str:
    if precision != "auto":
        return precision
    # Small networks on a CPU spend more on casts than bf16 saves.
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "no"


def _use_all_cores(state: PartialState) -> None:
    """Undo the single thread that ``accelerate launch`` gives a process unless it is told otherwise."""
    if state.device.type == "cpu" and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // state.num_processes))


def _flat(preset: Mapping[str, Any]) -> dict[str, Any]:
    """A preset with the keys of its groups joined by dots, as the parser names them."""
    flat = {}
    for key, value in preset.items():
        if key == "model" or key in GROUPS:
            flat |= {f"{key}.{name}": setting for name, setting in value.items()}
        else:
            flat[key] = value
    return flat


def _preset_of_file(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        _fail(f"--config {path}: {' '.join(str(error).split())}")
    return content.get("preset") if isinstance(content, dict) else None


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
