"""Eight pictures, learned by heart and sampled again: the whole chain of network, objective, LAMB and sampler at work.

    python benchmarks/overfit.py

Without labels, so that every sample has to become one of the eight by itself; the error is to the nearest one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import trange

from rinvid.data.clips import to_uint8
from rinvid.data.home import whole_file
from rinvid.models.rin import RINModel
from rinvid.pipelines.image import RINImagePipeline
from rinvid.report import versions, write_text
from rinvid.schedulers.gamma import GammaDDIMScheduler
from rinvid.schedules import create_schedule
from rinvid.training import EMA, diffusion_loss, learning_rate
from rinvid.training.optim import create_optimizers

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "overfit.json"
PICTURE = ROOT / "docs" / "images" / "overfit.png"
SAMPLE = {"prediction_type": "sample", "loss_type": "sample"}


def pictures() -> Tensor:
    """Eight smooth random pictures (8, 3, 16, 16) in [-1, 1]."""
    coarse = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    return (F.interpolate(coarse, size=16, mode="bicubic") / 2).clamp(-1, 1)


def train(images: Tensor, steps: int) -> RINModel:
    """A RIN of 0.2M parameters that has seen each of the images four times a step."""
    torch.manual_seed(0)
    model = RINModel(
        sample_size=16,
        num_latents=16,
        latent_dim=64,
        interface_dim=64,
        num_layers=[1, 1],
        latent_num_heads=4,
        rw_num_heads=4,
        latent_mlp_ratio=2,
        interface_mlp_ratio=2,
    )
    optimizers = create_optimizers(model, "lamb", weight_decay=0.01, betas=(0.9, 0.99))
    ema = EMA(model, decay=0.99)
    schedule, generator = create_schedule("cosine"), torch.Generator().manual_seed(2)
    batch = images.repeat(4, 1, 1, 1)
    for step in (bar := trange(steps, desc="training")):
        optimizers.set_lr(learning_rate(step, base=1e-2, warmup_steps=50, total_steps=steps))
        loss = diffusion_loss(model, batch, schedule, **SAMPLE, generator=generator)
        optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step()
        ema.update(model)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
    model.load_state_dict(ema.state_dict())
    return model.eval()


def sample(model: RINModel, count: int, steps: int = 50) -> Tensor:
    """``count`` pictures by DDIM, (count, 3, 16, 16) in [-1, 1]."""
    pipeline = RINImagePipeline(model, GammaDDIMScheduler(prediction_type="sample"))
    generator = torch.Generator().manual_seed(3)
    images = pipeline(batch_size=count, num_inference_steps=steps, generator=generator, output_type="pt").images
    return images * 2 - 1


def run(steps: int = 1500, samples: int = 64) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Figures, the samples, and the picture nearest to each."""
    images = pictures()
    begin = time.perf_counter()
    model = train(images, steps)
    seconds = time.perf_counter() - begin
    made = sample(model, samples)
    errors = (made.unsqueeze(1) - images).square().flatten(2).mean(2)  # (samples, 8)
    nearest = errors.argmin(1)
    figures = {
        "steps": steps,
        "training_seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean_squared_error": float(errors.amin(1).mean()),
        "worst_mean_squared_error": float(errors.amin(1).max()),
        "samples_by_picture": nearest.bincount(minlength=len(images)).tolist(),
    }
    return figures, made, images[nearest]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    figures, made, truth = run(options.steps)
    print(json.dumps(figures, indent=2))
    write_text(RESULTS, json.dumps({**figures, "machine": versions()}, indent=2) + "\n")
    # Truth above samples, twelve in a row, with a white pixel between them.
    rows = to_uint8(torch.stack([truth[:12].movedim(1, 0), made[:12].movedim(1, 0)]))  # (2, 12, 16, 16, 3)
    framed = F.pad(rows, (0, 0, 0, 1, 0, 1), value=255)  # (2, 12, 17, 17, 3)
    grid = framed.transpose(1, 2).reshape(2 * 17, 12 * 17, 3).numpy()
    picture = Image.fromarray(grid).resize((12 * 17 * 4, 2 * 17 * 4), Image.Resampling.NEAREST)
    with whole_file(PICTURE) as temporary:
        picture.save(temporary)


if __name__ == "__main__":
    main()
