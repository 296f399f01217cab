"""Cost of a forward pass against the number of interface tokens, with latents fixed: a constant plus so much a token.

    python benchmarks/scaling.py

The network is that of the imagenet128 preset on images of growing size, one image at a time, random weights, float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from rinvid.models.rin import RINModel
from rinvid.presets import PRESETS, measure
from rinvid.report import versions, write_text

RESULTS = Path(__file__).parent / "results" / "scaling.json"
# 1,024, 2,048 and 4,096 tokens of 4x4 pixels.
SIZES = [[128, 128], [128, 256], [256, 256]]


def seconds(model: RINModel) -> float:
    """One forward pass of one image."""
    device = model.device
    inputs = {
        "sample": torch.zeros(1, 3, *model.frame_size, device=device),
        "gamma": torch.full((1,), 0.5, device=device),
        "class_labels": torch.zeros(1, dtype=torch.long, device=device),
    }
    begin = time.perf_counter()
    with torch.no_grad():
        model(**inputs)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of smaller images, only to see that it runs")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    sizes = [[32, 32], [32, 64], [64, 64]] if options.quick else SIZES
    rounds = 1 if options.quick else options.rounds
    device = "cuda" if torch.cuda.is_available() else "cpu"

    configs = [{**PRESETS["imagenet128"].model, "sample_size": size} for size in sizes]
    models = [RINModel(**config).eval().to(device) for config in configs]
    for model in models:
        seconds(model)  # warm-up
    # In turns, so that whatever else the machine does meets all of them.
    times = list(zip(*[[seconds(model) for model in models] for _ in range(rounds)], strict=True))

    rows: list[dict[str, Any]] = []
    print(" tokens   GFLOPs  ratio   ms a pass  ratio   ms per 1,024 tokens more")
    for config, measured in zip(configs, times, strict=True):
        size = measure(config)
        row = {"tokens": size.tokens, "gflops": size.flops / 1e9, "milliseconds": 1e3 * statistics.median(measured)}
        if rows:
            row["flops_ratio"] = row["gflops"] / rows[-1]["gflops"]
            # The ratio within each round, where both were timed next to each other.
            row["time_ratio"] = statistics.median(b / a for a, b in zip(times[len(rows) - 1], measured, strict=True))
            added = (row["milliseconds"] - rows[-1]["milliseconds"]) / (row["tokens"] - rows[-1]["tokens"])
            row["milliseconds_per_1024_tokens"] = 1024 * added
        rows.append(row)
        ratios = f"{row.get('flops_ratio', 1):6.3f} {row['milliseconds']:11.1f} {row.get('time_ratio', 1):6.3f}"
        print(f"{row['tokens']:7d} {row['gflops']:8.1f} {ratios} {row.get('milliseconds_per_1024_tokens', 0):13.1f}")
    if not options.quick:
        results = {"rounds": rounds, "machine": versions(), "rows": rows}
        write_text(RESULTS, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
