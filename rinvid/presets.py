"""The published networks and recipes as data: each row with its source, its size and the score its authors report.

``rinvid presets`` prints the table. Parameters and GFLOPs are counted from the rows, so that nothing is stated twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from rinvid.models.rin import RINModel

_PAPER = "RIN paper"
_CODE = "released configuration"


@dataclass(frozen=True)
class Preset:
    """A published network, and how it was trained where that is known.

    Attributes:
        model: Arguments of :class:`rinvid.RINModel`.
        source: Where the numbers come from.
        score: What its authors report; never measured here.
        training: Further values of :class:`rinvid.training.config.RunConfig`, by group.
        paper_parameters: Parameters in millions that the source states.
        paper_gflops: GFLOPs of a forward pass that the source states.
    """

    model: Mapping[str, Any]
    source: str
    score: str
    training: Mapping[str, Any] = field(default_factory=dict)
    paper_parameters: float | None = None
    paper_gflops: float | None = None

    def run(self) -> dict[str, Any]:
        """The preset as a recipe has it: values of RunConfig by name."""
        return {"model": self.model, **self.training}


def _lamb(lr: float, schedule: str, batch_size: int, max_steps: int) -> dict[str, Any]:
    """Training as in the authors' configurations, where only these differ."""
    return {
        "optimizer": {
            "name": "lamb",
            "lr": lr,
            "schedule": schedule,
            "warmup_steps": 10_000,
            "weight_decay": 0.01,
            "betas": (0.9, 0.999),
            "max_grad_norm": 1.0,
            "ema_decay": 0.9999,
        },
        "sampling": {"scheduler": {"type": "ddpm", "schedule": {"type": "cosine"}}, "num_inference_steps": 1000},
        "batch_size": batch_size,
        "max_steps": max_steps,
    }


def _epsilon(schedule: Mapping[str, Any]) -> dict[str, Any]:
    return {"schedule": schedule, "prediction_type": "epsilon", "loss_type": "epsilon", "self_cond_rate": 0.9}


def _imagenet(size: int, patch: int, interface_dim: int, latents: tuple[int, int], layers: list[int]) -> dict[str, Any]:
    return {
        "sample_size": size,
        "num_classes": 1000,
        "tokenizer": {"type": "patch2d", "patch_size": patch},
        "num_latents": latents[0],
        "latent_dim": latents[1],
        "interface_dim": interface_dim,
        "num_layers": layers,
        "latent_num_heads": 16,
        "rw_num_heads": 16,
        "latent_mlp_ratio": 4,
        "interface_mlp_ratio": 4,
    }


PRESETS: dict[str, Preset] = {
    "cifar10": Preset(
        model={
            "sample_size": 32,
            "num_classes": 10,
            "tokenizer": {"type": "patch2d", "patch_size": 2},
            "num_latents": 128,
            "latent_dim": 512,
            "interface_dim": 256,
            "num_layers": [2, 2, 2],
            "latent_num_heads": 16,
            "rw_num_heads": 8,
            "latent_mlp_ratio": 4,
            "interface_mlp_ratio": 2,
            # "Important, otherwise it overfits": the authors, in a public thread.
            "dropout": 0.1,
            "drop_path": 0.1,
        },
        training={
            **_lamb(lr=3e-3, schedule="cosine@0.8", batch_size=256, max_steps=150_000),
            "diffusion": _epsilon({"type": "sigmoid", "start": -3.0, "end": 3.0, "tau": 0.9}),
        },
        source=_CODE,
        score="FID 1.81, IS 10.3",
        paper_parameters=31,
    ),
    "imagenet64-released": Preset(
        model=_imagenet(64, patch=8, interface_dim=512, latents=(128, 768), layers=[4] * 4),
        training={
            **_lamb(lr=2e-3, schedule="cosine@0.7", batch_size=1024, max_steps=150_000),
            "diffusion": _epsilon({"type": "linear"}),
        },
        source=_CODE,
        score="FID 2.04 (Chen 2023, blocks of 6)",
    ),
    "imagenet64": Preset(
        model=_imagenet(64, patch=4, interface_dim=256, latents=(128, 1024), layers=[4] * 4),
        source=_PAPER,
        score="FID 1.23",
        paper_parameters=281,
    ),
    "imagenet128": Preset(
        model=_imagenet(128, patch=4, interface_dim=512, latents=(128, 1024), layers=[4] * 6),
        source=_PAPER,
        score="FID 2.75",
        paper_parameters=410,
        paper_gflops=194,
    ),
    "imagenet256": Preset(
        model=_imagenet(256, patch=8, interface_dim=512, latents=(256, 1024), layers=[4] * 6),
        source=_PAPER,
        score="FID 4.51; 3.42 with input scale",
        paper_parameters=410,
        paper_gflops=334,
    ),
    "imagenet512": Preset(
        model=_imagenet(512, patch=8, interface_dim=512, latents=(256, 768), layers=[6] * 6),
        source=_PAPER,
        score="FID 3.95",
        paper_parameters=320,
        paper_gflops=425,
    ),
    "imagenet1024": Preset(
        model=_imagenet(1024, patch=8, interface_dim=512, latents=(256, 768), layers=[8] * 6),
        source=_PAPER,
        score="FID 8.72",
        paper_parameters=412,
    ),
    "kinetics600": Preset(
        model={
            "sample_size": 64,
            "num_frames": 16,
            "context_frames": 5,
            "tokenizer": {"type": "patch3d", "patch_size": [2, 4, 4]},
            "num_latents": 256,
            "latent_dim": 1024,
            "interface_dim": 512,
            "num_layers": [4] * 6,
            "latent_num_heads": 16,
            "rw_num_heads": 16,
            "latent_mlp_ratio": 4,
            "interface_mlp_ratio": 4,
        },
        # The paper's own training values were not at hand: the optimiser is that of the released ImageNet run, the
        # noise schedule that of the released CIFAR-10 run, batch and steps are our choice.
        training={
            **_lamb(lr=2e-3, schedule="cosine@0.7", batch_size=256, max_steps=500_000),
            "diffusion": _epsilon({"type": "sigmoid", "start": -3.0, "end": 3.0, "tau": 0.9}),
            "data": {"num_workers": 8, "cache_mb": 0},
            "watch_every": 10_000,
            "checkpoint_every": 5_000,
        },
        source=_PAPER,
        score="FVD 10.8 (1000 steps), 11.5 (400), IS 17.7",
        paper_parameters=411,
        paper_gflops=387,
    ),
}


@dataclass(frozen=True)
class Size:
    """What a network amounts to.

    Attributes:
        parameters: Trainable numbers.
        tokens: Interface tokens.
        flops: Floating-point operations of a forward pass of one sample; a multiply-add counts as two.
    """

    parameters: int
    tokens: int
    flops: int


def measure(model: Mapping[str, Any]) -> Size:
    """Size of the RINModel with these arguments, without allocating it."""
    with torch.device("meta"):
        network = RINModel(**model).eval().to("meta")
        config, frames = network.config, network.predicted_frames
        shape = (frames,) if config.num_frames else ()
        inputs = {"sample": torch.zeros(1, config.in_channels, *shape, *network.frame_size), "gamma": torch.zeros(1)}
        if config.num_classes:
            inputs["class_labels"] = torch.zeros(1, dtype=torch.long)
        if config.context_frames:
            inputs["context"] = torch.zeros(1, config.in_channels, config.context_frames, *network.frame_size)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            interface = network(**inputs).interface
    return Size(sum(p.numel() for p in network.parameters()), interface.shape[1], counter.get_total_flops())


def table() -> str:
    """All presets as a Markdown table: our count beside the published one."""
    lines = [
        "| preset | sample | interface | latents | blocks | parameters (theirs) | GFLOPs (theirs) | reported | from |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        c, size = preset.model, measure(preset.model)
        shape = "x".join(str(side) for side in (c.get("num_frames"), c["sample_size"], c["sample_size"]) if side)
        cells = (
            name,
            shape,
            f"{size.tokens} x {c['interface_dim']}",
            f"{c['num_latents']} x {c['latent_dim']}",
            ",".join(map(str, c["num_layers"])),
            f"{size.parameters / 1e6:.1f}M ({_stated(preset.paper_parameters)})",
            f"{size.flops / 1e9:.1f} ({_stated(preset.paper_gflops)})",
            preset.score,
            preset.source,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _stated(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
