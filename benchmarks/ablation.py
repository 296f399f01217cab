"""What each choice of the digits preset is worth: the same short run with one thing changed at a time.

    python benchmarks/ablation.py

Each variant is the recipe with the options printed beside it, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rinvid.report import versions
from rinvid.training.progress import read_metrics

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "ablation.json"

VARIANTS: dict[str, list[str]] = {
    "digits preset": [],
    "context appended": ["--model.context_mode", "append"],
    "context inline": ["--model.context_mode", "inline"],
    "no token mixer": ["--model.mixer_kernel", "0"],
    "learned positions": ["--model.interface_position", "learned", "--model.temporal_position", "false"],
    "AdamW at 1e-3": ["--optimizer.name", "adamw", "--optimizer.lr", "1e-3"],
    "v-prediction": ["--diffusion.prediction_type", "v_prediction", "--diffusion.loss_type", "v_prediction"],
    "epsilon-prediction": ["--diffusion.prediction_type", "epsilon", "--diffusion.loss_type", "epsilon"],
    "less noise (cosine, tau 1)": ["--diffusion.schedule", "{type: cosine, tau: 1.0}"],
}


def run(options: list[str], steps: int, seed: int) -> dict[str, float]:
    """One variant's figures after ``steps`` steps."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run"
        fixed = {"max_steps": steps, "watch_every": 0, "checkpoint_every": 0, "seed": seed, "output_dir": target}
        fixed |= {"evaluation.num_clips": 128}
        command = [sys.executable, str(ROOT / "recipes" / "kinetics600.py"), *options]
        command += [str(word) for name, value in fixed.items() for word in (f"--{name}", value)]
        subprocess.run(command, check=True, capture_output=True)
        metrics = json.loads((target / "metrics.json").read_text())
        last = read_metrics(target / "metrics.jsonl")[-1]
    return {
        "context_gain": last["context_gain/t=1.0"],
        "own_context_error": last["own_context_error/t=1.0"],
        "psnr": metrics["prediction"]["psnr"],
        "best_trivial_psnr": max(metrics[name]["psnr"] for name in ("copy_last_frame", "mean_frame")),
        "seconds_per_step": metrics["training_seconds"] / steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results: dict[str, Any] = {"steps": options.steps, "seed": options.seed, "machine": versions(), "variants": {}}
    print(f"{'variant':<28} context gain  own error   PSNR dB  s a step   after {options.steps} steps")
    for name, arguments in VARIANTS.items():
        figures = run(arguments, options.steps, options.seed)
        results["variants"][name] = {"options": arguments, **figures}
        print(
            f"{name:<28} {figures['context_gain']:12.4f} {figures['own_context_error']:10.4f} {figures['psnr']:9.2f} "
            f"{figures['seconds_per_step']:9.2f}   {' '.join(arguments)}",
            flush=True,
        )
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(f"copy-last-frame or mean frame, the better: {figures['best_trivial_psnr']:.2f} dB")


if __name__ == "__main__":
    main()
