"""What the training loop costs over the bare objective, backward pass and optimiser step, as a ratio.

    python benchmarks/overhead.py

Both run at the size of the digits preset, on the same data, in turns within one process. "bare" holds its batch in
memory; "loop" reads clips, logs, averages weights and draws its progress bar as every run does.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from rinvid.data.clips import VideoClips, to_model_range
from rinvid.data.digits import digits_root
from rinvid.data.videos import open_videos
from rinvid.models.rin import RINModel
from rinvid.options import parse
from rinvid.report import versions
from rinvid.training.config import RunConfig
from rinvid.training.loop import loss_options, train, training_batches
from rinvid.training.objective import diffusion_loss
from rinvid.training.optim import create_optimizers

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from kinetics600 import PRESETS

RESULTS = Path(__file__).parent / "results" / "overhead.json"


def bare(config: RunConfig, model: RINModel, clips: VideoClips, steps: int) -> float:
    """Seconds a step of objective, backward, clipping and optimiser alone."""
    options = loss_options(config)
    optimizers = create_optimizers(model, config.optimizer.name, config.optimizer.weight_decay)
    optimizers.set_lr(config.optimizer.lr)
    video = to_model_range(torch.cat([clips[i % len(clips)].samples for i in range(config.batch_size)]))
    given = model.config.context_frames
    begin = time.perf_counter()
    for _ in range(steps):
        diffusion_loss(model, video[:, :, given:], context=video[:, :, :given], **options).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
        optimizers.step()
        optimizers.zero_grad()
    return (time.perf_counter() - begin) / steps


def loop(config: RunConfig, model: RINModel, clips: VideoClips, steps: int) -> float:
    """Seconds a step of the training loop, from its own record of clips a second."""
    config = dataclasses.replace(config, max_steps=steps, watch_every=0, checkpoint_every=0, log_every=10)
    with tempfile.TemporaryDirectory() as folder:
        accelerator = Accelerator(log_with="tensorboard", project_dir=folder)
        train(config, model, training_batches(config, clips, accelerator), Path(folder), accelerator, record={})
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    rates = [line["clips_per_second"] for line in lines if "clips_per_second" in line]
    return config.batch_size * statistics.fmean(1 / rate for rate in rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="one short round, only to see that it runs")
    options = parser.parse_args()
    rounds, steps = (1, 10) if options.quick else (options.rounds, options.steps)
    logging.basicConfig(level=logging.WARNING)

    config = parse(PRESETS, "digits", [])
    model = RINModel(**config.model)
    frames = model.config.num_frames
    videos = open_videos(digits_root(), frames, model.frame_size[0], cache_mb=1024)
    clips = VideoClips(videos.parts["val"], frames)
    bare(config, copy.deepcopy(model), clips, 3)
    times = {"bare": [], "loop": []}
    for _ in range(rounds):
        times["bare"].append(bare(config, copy.deepcopy(model), clips, steps))
        times["loop"].append(loop(config, copy.deepcopy(model), clips, steps))
    ratio = statistics.median(a / b for a, b in zip(times["loop"], times["bare"], strict=True))
    for name, values in times.items():
        print(f"{name:<5} {statistics.median(values) * 1000:7.1f} ms a step (median of {rounds} rounds)")
    print(f"loop over bare: {ratio:.3f}")
    if not options.quick:
        machine = {"processor": platform.processor() or platform.machine(), **versions()}
        result = {"ratio": ratio, "seconds": times, "steps": steps, "machine": machine}
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
