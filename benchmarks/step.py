"""Where a training step of the digits preset spends its time: forward passes, backward pass, optimiser, average.

    python benchmarks/step.py

float32 and bf16 take turns within one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from rinvid.models.rin import RINModel
from rinvid.options import parse
from rinvid.report import versions
from rinvid.training.ema import EMA
from rinvid.training.loop import loss_options
from rinvid.training.objective import diffusion_loss
from rinvid.training.optim import create_optimizers

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from kinetics600 import PRESETS

RESULTS = Path(__file__).parent / "results" / "step.json"
PARTS = ("forward", "backward", "optimizer", "average")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = parse(PRESETS, "digits", [])
    model = RINModel(**config.model)
    optimizers = create_optimizers(model, config.optimizer.name, config.optimizer.weight_decay)
    optimizers.set_lr(1e-4)
    ema = EMA(model, 0.99)
    c = model.config
    video = torch.rand(options.batch_size, c.in_channels, c.num_frames, *model.frame_size) * 2 - 1
    context, target = video[:, :, : c.context_frames], video[:, :, c.context_frames :]
    spent: dict[str, dict[str, list[float]]] = {"float32": defaultdict(list), "bf16": defaultdict(list)}
    for step in range(options.steps + 2):
        for precision, record in spent.items():
            marks = [time.perf_counter()]
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = diffusion_loss(model, target, context=context, **loss_options(config))
            marks.append(time.perf_counter())
            loss.backward()
            marks.append(time.perf_counter())
            optimizers.step()
            optimizers.zero_grad()
            marks.append(time.perf_counter())
            ema.update(model)
            marks.append(time.perf_counter())
            if step >= 2:
                for part, begin, end in zip(PARTS, marks[:-1], marks[1:], strict=True):
                    record[part].append(end - begin)
    medians = {name: {part: statistics.median(record[part]) for part in PARTS} for name, record in spent.items()}
    for name, parts in medians.items():
        row = "  ".join(f"{part} {seconds * 1000:6.1f} ms" for part, seconds in parts.items())
        print(f"{name:<8} {row}  all {sum(parts.values()) * 1000:6.1f} ms")
    result = {"batch_size": options.batch_size, "seconds": medians, "machine": versions()}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
