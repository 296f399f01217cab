"""What the pipeline costs beyond the network: sampling end to end against bare forward passes of the same number.

    python benchmarks/pipeline.py

The network is the cifar10 preset's with random weights; both take turns within one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rinvid.models.rin import RINModel
from rinvid.pipelines.image import RINImagePipeline
from rinvid.presets import PRESETS
from rinvid.report import versions, write_text
from rinvid.schedulers.gamma import GammaDDPMScheduler

RESULTS = Path(__file__).parent / "results" / "pipeline.json"


def seconds(work: Callable[[], None], device: str) -> float:
    begin = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, only to see that it runs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    rounds, steps = (1, 2) if options.quick else (options.rounds, options.steps)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = RINModel(**PRESETS["cifar10"].model).eval().to(device)
    pipeline = RINImagePipeline(model, GammaDDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    labels = [index % 10 for index in range(options.batch)]
    inputs = {
        "sample": torch.randn(options.batch, 3, 32, 32, device=device),
        "gamma": torch.tensor(0.5, device=device),
        "class_labels": torch.tensor(labels, device=device),
    }

    def bare() -> None:
        latents = None
        with torch.no_grad():
            for _ in range(steps):
                latents = model(**inputs, latents=latents).latents

    def whole() -> None:
        pipeline(labels, num_inference_steps=steps)

    bare()
    whole()
    pairs = [(seconds(bare, device), seconds(whole, device)) for _ in range(rounds)]
    milliseconds = [1e3 * statistics.median(times) / steps for times in zip(*pairs, strict=True)]
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"forward pass {milliseconds[0]:.1f} ms, step of the pipeline {milliseconds[1]:.1f} ms, ratio {ratio:.3f}")
    if not options.quick:
        figures = {"steps": steps, "batch": options.batch, "rounds": rounds, "ratio": ratio}
        figures |= {"bare_milliseconds": milliseconds[0], "pipeline_milliseconds": milliseconds[1]}
        write_text(RESULTS, json.dumps({**figures, "machine": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
