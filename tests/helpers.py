"""What several test files share: small models, a denoiser that knows the answer, and the reference's arrays."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rinvid.models.rin import RINModel
from rinvid.schedules import Schedule, create_schedule

PARITY = Path(__file__).parent / "data" / "parity"


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


_PREFIXES = (
    (r"^(read|write)_unit_(\d+)/transformer_decoder_layer/\w*(?:mha|mlp)", r"blocks.\2.\1"),
    (r"^latent_processing_unit(\d+)/transformer_encoder/\w+", r"blocks.\1.compute.0"),
    (r"^latent_processing_unit(\d+)/transformer_encoder_(\d+)/\w+", r"blocks.\1.compute.\2"),
    (r"^tape_", "interface_"),
    (r"^(latent|interface)_pos_emb.*", r"\1_rows/weight"),
    (r"^(latent|interface)_prev_proj", r"\1_recall"),
    (r"^(latent|interface)_prev_ln", r"\1_recall/norm"),
    (r"^(stem|output)_ln", r"\1_norm"),
    (r"^stem/", "codec/stem/"),
    (r"^output_linear", "codec/readout"),
    (r"^time_emb/dense0", "time_embedding/expand"),
    (r"^time_emb/dense1", "time_embedding/mix"),
    (r"^cond_proj", "label_embedding"),
)
_PARTS = {
    "ln": "norm",
    "enc_ln": "norm_source",
    "ffn": "feed_forward",
    "dense1": "expand",
    "dense2": "contract",
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_output": "attention.output",
    "gamma": "weight",
    "beta": "bias",
    "kernel": "weight",
}


def from_reference(name: str, array: Tensor) -> tuple[str, Tensor]:
    """Name and layout of one of the reference's arrays (or of its gradient) in a RINModel."""
    *_, owner, leaf = name.split("/")
    if leaf == "bias":
        array = array.reshape(-1)
    elif leaf == "kernel" and "pos_emb" not in name:
        # Queries, keys and values: (in, heads, head_dim). All else, convolutions too, ends in its output axis.
        array = array.flatten(1).T if owner in ("query", "key", "value") else array.flatten(0, -2).T
    for pattern, ours in _PREFIXES:
        name = re.sub(pattern, ours, name)
    return ".".join(_PARTS.get(part, part) for part in name.split("/")), array.contiguous()


def reference_model(name: str) -> RINModel:
    """The RINModel of a reference file: every array used once, every parameter filled."""
    arrays, meta = parity(name)
    weights = {key.removeprefix("weights/"): a for key, a in arrays.items() if key.startswith("weights/")}
    c = meta["config"] if "config" in meta else meta["model"]
    video = meta["kind"] == "video"
    labels = not video and meta["num_classes"]
    given = c.get("seq_cond", int(c.get("conditional", "@0").partition("@")[2]))
    tokenizer: dict[str, Any] = {"type": "patch2d", "patch_size": c["patch_size"]}
    if video:
        tokenizer = {"type": "patch3d", "patch_size": [c["seq_stride"], c["patch_size"], c["patch_size"]]}
    model = RINModel(
        sample_size=meta["image_size"],
        num_frames=c.get("seq_len", meta.get("seq_len")) if video else None,
        context_frames=given if video else 0,
        num_classes=labels or None,
        tokenizer=tokenizer,
        num_latents=c["latent_slots"],
        latent_dim=c["latent_dim"],
        interface_dim=c["tape_dim"],
        num_layers=[int(depth) for depth in c["num_layers"].split(",")],
        latent_num_heads=c["latent_num_heads"],
        rw_num_heads=c["rw_num_heads"],
        latent_mlp_ratio=c["latent_mlp_ratio"],
        interface_mlp_ratio=c["tape_mlp_ratio"],
        time_on_latent=c.get("time_on_latent", False),
        cond_on_latent=bool(c.get("cond_on_latent_n", 0)),
        self_cond=c["self_cond"].replace("tape", "interface"),
        time_scaling=c["time_scaling"],
        latent_position=c["latent_pos_encoding"],
        interface_position=c["tape_pos_encoding"],
        xattn_enc_ln=c.get("xattn_enc_ln", False),
    )
    state = dict(from_reference(key, array) for key, array in weights.items())
    assert len(state) == len(weights), "two arrays of the reference have one name here"
    model.load_state_dict(state)  # strict: no parameter is left over, and no array
    return model.eval()
