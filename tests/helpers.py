"""What several test files share: small models, a denoiser that knows the answer, and the reference's arrays."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rinvid.convert import from_reference
from rinvid.models.rin import RINModel
from rinvid.schedules import Schedule, create_schedule

PARITY = Path(__file__).parent / "data" / "parity"
# The reference files that hold a network by itself.
NETWORKS = [
    "image_class_latent",
    "image_class_tape",
    "image_encln",
    "image_selfcond_both",
    "image_uncond_sincos",
    "video_4to4",
    "video_5to11",
    "video_tape_time",
]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Largest difference at most ``tolerance``, absolute."""
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """L2 norm of the difference over that of what is expected."""
    return float((actual - expected).norm() / expected.norm())


# -- small models


def small_model(**changes: Any) -> RINModel:
    """A video model of two blocks: 7 frames of 8x8, 3 of them given, unless ``changes`` say otherwise."""
    config: dict[str, Any] = {
        "sample_size": 8,
        "num_frames": 7,
        "context_frames": 3,
        "num_latents": 6,
        "latent_dim": 32,
        "interface_dim": 24,
        "num_layers": [1, 1],
        "latent_num_heads": 4,
        "rw_num_heads": 2,
        "latent_mlp_ratio": 2,
        "interface_mlp_ratio": 2,
    }
    torch.manual_seed(0)
    return RINModel(**config | changes)


@torch.no_grad()
def randomised(model: RINModel, std: float = 0.2) -> RINModel:
    """The model with noise on every parameter, so that nothing is zero by its initialisation alone."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def model_inputs(model: RINModel, batch: int = 2, seed: int = 2) -> dict[str, Tensor]:
    """A noisy sample, noise levels, and the context or labels that the model takes."""
    generator = torch.Generator().manual_seed(seed)
    config, size = model.config, model.frame_size

    def normal(*frames: int) -> Tensor:
        return torch.randn(batch, config.in_channels, *frames, *size, generator=generator)

    inputs = {
        "sample": normal() if config.num_frames is None else normal(model.predicted_frames),
        "gamma": torch.rand(batch, generator=generator),
    }
    if config.context_frames:
        inputs["context"] = normal(config.context_frames)
    if config.num_classes is not None:
        inputs["class_labels"] = torch.randint(config.num_classes, (batch,), generator=generator)
    return inputs


# -- a denoiser that knows the answer


@dataclass(frozen=True)
class Oracle:
    """Gives the network output that stands for exactly ``x0`` times ``input_scale``, whatever x_t it is shown."""

    x0: Tensor
    prediction_type: str
    input_scale: float = 1.0

    def __call__(self, x_t: Tensor, gamma: Tensor) -> Tensor:
        x_t, x0 = x_t.double(), self.x0.double() * self.input_scale
        alpha, sigma = float(gamma) ** 0.5, (1 - float(gamma)) ** 0.5
        epsilon = (x_t - alpha * x0) / sigma
        outputs = {"sample": x0, "epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * x0}
        return outputs[self.prediction_type].to(self.x0.dtype)


# -- the reference's arrays


@cache
def parity(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Arrays and meta of a reference file, as tensors laid out as the reference has them."""
    with np.load(PARITY / f"{name}.npz") as file:
        meta = json.loads(str(file["meta"])) if "meta" in file.files else {}
        return {key: torch.from_numpy(file[key]) for key in file.files if key != "meta"}, meta


def channels_first(array: Tensor) -> Tensor:
    """(B, ..., C) -> (B, C, ...)."""
    return array.movedim(-1, 1).contiguous()


def reference_schedule(notation: str) -> Schedule:
    """A schedule from the reference's notation, for example ``sigmoid@-3,3,0.9``."""
    name, _, values = notation.partition("@")
    if not values:
        return create_schedule({"simple_linear": "linear"}.get(name, name))
    start, end, last = values.split(",")
    third: dict[str, Any] = {"reverse": last == "t"} if name == "log" else {"tau": float(last)}
    return create_schedule(name, start=float(start), end=float(end), **third)


def reference_model(name: str) -> RINModel:
    """The RINModel of a reference file."""
    arrays, meta = parity(name)
    return from_reference({key[8:]: array for key, array in arrays.items() if key.startswith("weights/")}, meta)


def reference_options(name: str) -> dict[str, Any]:
    """What network, objective and sampler of a reference file share, by our names."""
    options = parity(name)[1]["model"]
    return {
        "prediction_type": {"eps": "epsilon", "x": "sample", "v": "v_prediction"}[options["pred_type"]],
        "input_scale": options["b_scale"],
        "normalize_input": options["normalize_noisy_input"],
    }


def reference_data(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Clean samples of a reference file in [-1, 1], and the labels or frames that they are conditioned on."""
    arrays, meta = parity(name)
    clean = channels_first(arrays["train_x01"]) * 2 - 1
    if meta["kind"] == "image":
        return clean, {"class_labels": arrays["labels"].argmax(1)}
    given = reference_model(name).config.context_frames
    return clean[:, :, given:], {"context": clean[:, :, :given]}
