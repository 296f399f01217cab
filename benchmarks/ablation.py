"""What each choice of the digits preset is worth: the same short run with one thing changed at a time.

    python benchmarks/ablation.py
    python benchmarks/ablation.py --seeds 0 1 2 --only "context appended" "context inline"

Each variant is the recipe with the options printed beside it, in a process of its own. Runs that the result file holds
already are not repeated. The figures go to benchmarks/results/ablation.json, the curves to docs/images/ablation.png.
"""

from __future__ import annotations

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rinvid.data.home import whole_file
from rinvid.report import versions, write_text
from rinvid.training.progress import read_metrics

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "kinetics600.py"
RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
PICTURE = ROOT / "docs" / "images" / "ablation.png"
FLAT_FANS = "--flat-fans"

# How the context enters and how tokens are told apart: the first group of the table.
NETWORK: dict[str, list[str]] = {
    "digits preset": [],
    "context appended": ["--model.context_mode", "append"],
    "context inline": ["--model.context_mode", "inline"],
    "inline, context embedding": ["--model.context_mode", "inline", "--model.context_embedding", "true"],
    "inline, noise level per token": ["--model.context_mode", "inline", "--model.token_noise_level", "true"],
    "appended, context embedding": ["--model.context_mode", "append", "--model.context_embedding", "true"],
    "no token mixer": ["--model.mixer_kernel", "0"],
    "no temporal code": ["--model.temporal_position", "false"],
    "learned positions": ["--model.interface_position", "learned", "--model.temporal_position", "false"],
    "nothing but concat": [
        *("--model.interface_position", "learned", "--model.temporal_position", "false", "--model.mixer_kernel", "0")
    ],
    "noise level per token": ["--model.token_noise_level", "true"],
    "attention drawn as matrices": [FLAT_FANS],
}
# What is learned and how: the second.
TRAINING: dict[str, list[str]] = {
    "AdamW at 1e-3": ["--optimizer.name", "adamw", "--optimizer.lr", "1e-3"],
    "LAMB at 1e-2": ["--optimizer.name", "lamb", "--optimizer.lr", "1e-2"],
    "v-prediction": ["--diffusion.prediction_type", "v_prediction", "--diffusion.loss_type", "v_prediction"],
    "epsilon-prediction": ["--diffusion.prediction_type", "epsilon", "--diffusion.loss_type", "epsilon"],
    "less noise (cosine, tau 1)": ["--diffusion.schedule", "{type: cosine, tau: 1.0}"],
}
VARIANTS = NETWORK | TRAINING


def run(options: list[str], steps: int, seed: int) -> dict[str, Any]:
    """One variant's figures after ``steps`` steps, and its curve on the way.

    PSNR on the way is that of a few clips, at the end that of 128.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run"
        fixed = {"max_steps": steps, "watch_every": steps // 5, "checkpoint_every": 0, "seed": seed}
        fixed |= {"output_dir": target, "evaluation.num_clips": 128}
        command = [sys.executable, __file__, "--worker", *options]
        command += [str(word) for name, value in fixed.items() for word in (f"--{name}", value)]
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(options)}: {done.stderr[-2000:]}")
        metrics = json.loads((target / "metrics.json").read_text())
        watched = [line for line in read_metrics(target / "metrics.jsonl") if "context_gain/t=1.0" in line]
    return {
        "context_gain": watched[-1]["context_gain/t=1.0"],
        "own_context_error": watched[-1]["own_context_error/t=1.0"],
        "psnr": metrics["prediction"]["psnr"],
        "best_trivial_psnr": max(metrics[name]["psnr"] for name in ("copy_last_frame", "mean_frame")),
        "seconds_per_step": metrics["training_seconds"] / steps,
        "curve": [
            [line["step"], line["context_gain/t=1.0"], line.get("psnr", metrics["prediction"]["psnr"])]
            for line in watched
        ],
    }


def worker(options: list[str]) -> None:
    """The recipe itself, with attention kernels drawn as plain matrices if that is asked for."""
    if FLAT_FANS in options:
        options.remove(FLAT_FANS)
        _use_flat_fans()
    sys.argv = [str(RECIPE), *options]
    runpy.run_path(str(RECIPE), run_name="__main__")


def _use_flat_fans() -> None:
    """Glorot with the fans of a matrix, four to six times larger for queries, keys and values than the authors'."""
    from torch import nn

    from rinvid.models.layers import Attention

    plain = Attention.__init__

    def init(self: Attention, query_dim: int, source_dim: int, width: int, heads: int) -> None:
        plain(self, query_dim, source_dim, width, heads)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)

    Attention.__init__ = init  # type: ignore[method-assign]


def average(runs: dict[str, dict[str, Any]], name: str) -> tuple[float, float]:
    """Mean over seeds, and half the distance between the extremes."""
    values = [figures[name] for figures in runs.values()]
    return mean(values), (max(values) - min(values)) / 2


def print_table(results: dict[str, Any]) -> None:
    print(f"{'variant':<30} seeds   context gain     own error         PSNR dB   s a step")
    for name, runs in results["variants"].items():
        cells = [average(runs, key) for key in ("context_gain", "own_context_error", "psnr")]
        gain, error, psnr = (f"{value:.4f} ±{spread:.4f}" for value, spread in cells)
        seconds, _ = average(runs, "seconds_per_step")
        print(f"{name:<30} {len(runs):>5} {gain:>14} {error:>14} {psnr:>17} {seconds:>8.2f}", flush=True)


def plot(results: dict[str, Any], names: Sequence[str]) -> None:
    """Context gain and PSNR of samples against steps, the mean over seeds with the range as a band."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for place, name in enumerate(name for name in names if name in results["variants"]):
        curves = [figures["curve"] for figures in results["variants"][name].values()]
        steps = [point[0] for point in curves[0]]
        for column, axes in enumerate(panels, start=1):
            values = [[curve[i][column] for curve in curves] for i in range(len(steps))]
            colour = colormaps["tab20"](place)
            axes.plot(steps, [mean(v) for v in values], "o-", ms=3, color=colour, label=name)
            axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.12)
    panels[0].set(xlabel="step", ylabel="mean squared error", title="Context gain at t = 1 (0: context ignored)")
    panels[1].set(xlabel="step", ylabel="dB", title="PSNR of sampled frames (a few clips; at the end 128)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    for axes in panels:
        axes.grid(alpha=0.3)
    with whole_file(PICTURE) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    options = parser.parse_args()
    results: dict[str, Any] = {"steps": options.steps, "machine": versions(), "variants": {}}
    if RESULTS.is_file():
        results = json.loads(RESULTS.read_text())
        if results["steps"] != options.steps:
            parser.error(f"{RESULTS} holds runs of {results['steps']} steps; move it away first")
    for seed in options.seeds:
        for name in options.only:
            runs = results["variants"].setdefault(name, {})
            if str(seed) in runs:
                continue
            runs[str(seed)] = run(list(VARIANTS[name]), options.steps, seed)
            write_text(RESULTS, json.dumps(results, indent=1) + "\n")
            print(f"{name}, seed {seed}: {runs[str(seed)]['psnr']:.2f} dB", flush=True)
    print_table(results)
    plot(results, list(NETWORK))


if __name__ == "__main__":
    if "--worker" in sys.argv[1:2]:
        worker(sys.argv[2:])
    else:
        main()
