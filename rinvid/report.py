"""The end of a run: save the pipeline, evaluate it, write metrics.json and the pictures."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rinvid.data.home import whole_file, whole_folder
from rinvid.evaluation import predict_clips, score_clips
from rinvid.pipelines.card import write_card
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.schedules import create_schedule
from rinvid.training.config import RunConfig
from rinvid.training.progress import read_metrics
from rinvid.visual import comparison, plot_training, save_gif, save_mp4


def finish(
    config: RunConfig,
    pipeline: RINVideoPipeline,
    truth: NDArray[np.uint8],
    mean: Tensor,
    folder: Path,
    facts: Mapping[str, Any],
    labels: Tensor | None = None,
) -> None:
    """Save the pipeline, evaluate it on val clips, and write metrics.json and the pictures."""
    with whole_folder(folder / "pipeline", replace=True) as temporary:
        pipeline.save_pretrained(temporary)
    predicted = predict_clips(
        pipeline, truth, config.sampling.num_inference_steps, config.seed, config.evaluation.batch_size, labels
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
            "noise_schedule": create_schedule(pipeline.scheduler.config.schedule).config,
            "num_inference_steps": config.sampling.num_inference_steps,
            "seed": config.seed,
            "steps_trained": config.max_steps,
        },
        **facts,
        "versions": versions(),
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    write_card(folder / "pipeline", pipeline, _card_facts(config, metrics))
    save_comparison(truth, predicted, given, config.evaluation.num_examples, folder)
    plot_training(read_metrics(folder / "metrics.jsonl"), folder / "loss.png")
    print_scores(metrics, len(truth))


def _card_facts(config: RunConfig, metrics: Mapping[str, Any]) -> dict[str, str]:
    """What the model card says of training and results."""
    data, protocol = metrics["data"], metrics["protocol"]
    source = Path(config.data.root).name if config.data.root else dict(config.data.source)["type"]
    return {
        "trained on": f"{source}: {data['videos']['train']} videos, fingerprint {data['fingerprint'][:12]}",
        "preset": f"{config.preset}, seed {config.seed}",
        "trained for": f"{config.max_steps} steps of {config.batch_size} clips",
        "noise schedule of training": f"`{create_schedule(config.diffusion.schedule).config}`",
        "noise schedule of sampling": f"`{protocol['noise_schedule']}`, {protocol['num_inference_steps']} steps",
        "weights": protocol["weights"],
        f"predicted frames of {protocol['clips']} val clips": (
            f"PSNR {metrics['prediction']['psnr']:.2f} dB, SSIM {metrics['prediction']['ssim']:.3f}"
        ),
    }


def save_comparison(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], context_frames: int, examples: int, folder: Path
) -> None:
    """samples.gif and samples.mp4: context | truth | prediction of clips from all over the data."""
    shown = examples_of(len(truth), examples)
    video = comparison(truth[shown], predicted[shown], context_frames)
    save_gif(video, folder / "samples.gif")
    save_mp4(video, folder / "samples.mp4")


def examples_of(clips: int, count: int) -> list[int]:
    """Places of up to ``count`` clips at equal distances, since neighbours are often of one class."""
    count = min(count, clips)
    return [index * clips // count for index in range(count)]


def print_scores(metrics: Mapping[str, Any], count: int) -> None:
    """The scores of ``count`` clips as a small table."""
    print(f"\npredicted frames of {count} val clips    PSNR dB    SSIM")
    for name in ("prediction", "copy_last_frame", "mean_context_frame", "mean_frame"):
        if name in metrics:
            label = name.replace("_", " ")
            print(f"  {label:<34} {metrics[name]['psnr']:>8.2f} {metrics[name]['ssim']:>7.3f}")
    if "frechet_random3d" in metrics:
        print(f"  frechet_random3d (random features, not FVD): {metrics['frechet_random3d']:.4g}")


def versions() -> dict[str, str]:
    """Versions of what a number depends on, and the machine."""
    packages = ("rinvid", "torch", "diffusers", "accelerate", "torchmetrics", "av", "decord2")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {name: version(name) for name in packages} | {"python": platform.python_version(), "device": device}


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
