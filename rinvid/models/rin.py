"""The Recurrent Interface Network (Jabri, Fleet, Chen 2023, arXiv 2212.11972).

Most of the computation happens on a small set of latents Z, which read from and write to the interface X, one
token per patch of the sample. The network is conditioned on the noise level gamma itself, never on a time step, so
that any noise schedule can be used for sampling.

Shapes: B samples, n interface tokens of width d_x, m latents of width d_z.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from rinvid import registry
from rinvid.models.layers import (
    ComputeLayer,
    CrossLayer,
    LayerNorm,
    Linear,
    NoiseLevelEmbedding,
    Recall,
    Table,
    Write,
)
from rinvid.models.positions import clip_code, coordinates, sinusoid
from rinvid.strict import StrictConfig
from rinvid.tokenizers.base import Grid, Tokenizer
from rinvid.values import require_labels, require_range, require_shape

PositionCode = Literal["learned", "sin_cos", "sin_cos_plus_learned"]
SelfConditioning = Literal["none", "latent", "latent+interface"]
ContextMode = Literal["append", "inline", "concat"]


@dataclass
class RINOutput(BaseOutput):
    """What a forward pass gives.

    Attributes:
        sample: Prediction, shaped like the noisy sample.
        latents: Final latents (B, m, d_z), to be given to the next pass.
        interface: Final interface (B, n, d_x).
    """

    sample: Tensor
    latents: Tensor
    interface: Tensor


class RINBlock(nn.Module):
    """Read, compute, write (RIN paper, algorithm 1). A block of depth 0 only reads."""

    def __init__(self, read: CrossLayer, compute: Sequence[ComputeLayer], write: Write) -> None:
        super().__init__()
        self.read = read
        self.compute = nn.ModuleList(compute)
        self.write = write if compute else None

    def forward(self, z: Tensor, x: Tensor, conditions: Tensor | None, grid: Grid) -> tuple[Tensor, Tensor]:
        z = self.read(z, x if conditions is None else torch.cat([x, conditions], dim=1))  # (B, m, d_z)
        for layer in self.compute:
            z = layer(z)  # (B, m, d_z)
        if self.write is not None:
            x = self.write(x, z, grid)  # (B, n, d_x)
        return z, x


class RINModel(StrictConfig, ModelMixin, ConfigMixin):
    """RIN for images and, with context frames, for video prediction.

    Args:
        sample_size: Height and width in pixels; one number for squares.
        in_channels: Channels of a frame, 3 for RGB.
        num_frames: Frames of a whole clip, context included; None for images.
        context_frames: Clean frames given at the start of the clip; they are neither noised nor predicted.
        num_classes: Number of class labels; None for no labels.
        tokenizer: Spec of the tokenizer; None picks 4x4 patches, 2x4x4 for video.
        num_latents: m, the tokens for noise level and label included where those are latents.
        latent_dim: d_z.
        interface_dim: d_x.
        num_layers: Compute layers of each block; 0 makes a block that only reads.
        latent_num_heads: Heads among latents; divides latent_dim.
        rw_num_heads: Heads of reads and writes; divides the smaller of the two widths.
        latent_mlp_ratio: Hidden width of the latents' feed-forward layers over latent_dim.
        interface_mlp_ratio: The same for the interface.
        time_on_latent: The noise level is a latent; otherwise it is read along with the interface.
        cond_on_latent: The label is a latent; otherwise it is read along with the interface.
        self_cond: What is carried from one pass to the next: "none", "latent" or "latent+interface".
        dropout: Dropout rate inside the compute layers' feed-forward layers.
        drop_path: Rate of stochastic depth of the compute layers.
        time_scaling: gamma is multiplied by it before it is coded.
        latent_position: Latents are "learned" rows, fixed "sin_cos" codes or their sum, "sin_cos_plus_learned".
        interface_position: Position code of the interface tokens, the same choices.
        temporal_position: The fixed codes of a video also code time; the released code repeats the 2-D code over time.
        context_mode: How context enters: its tokens follow the predicted ones ("append", the released code), both are
            tokenized as the one clip they are ("inline"), or it is stacked on the channels of every predicted frame
            ("concat").
        context_embedding: Add a learned vector to tokens in proportion to their share of context frames.
        token_noise_level: Add the code of its own noise level to every token; context is clean, gamma 1.
        mixer_kernel: Side of a depthwise convolution among interface tokens after each write; 0 for none.
        xattn_enc_ln: Normalise what reads and writes attend to.

    Raises:
        ValueError: A size, width, name or count does not fit, with what is allowed.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int | Sequence[int] = 64,
        in_channels: int = 3,
        num_frames: int | None = None,
        context_frames: int = 0,
        num_classes: int | None = None,
        tokenizer: Mapping[str, Any] | None = None,
        num_latents: int = 256,
        latent_dim: int = 1024,
        interface_dim: int = 512,
        num_layers: Sequence[int] = (4, 4, 4, 4, 4, 4),
        latent_num_heads: int = 16,
        rw_num_heads: int = 16,
        latent_mlp_ratio: int = 4,
        interface_mlp_ratio: int = 4,
        time_on_latent: bool = True,
        cond_on_latent: bool = True,
        self_cond: SelfConditioning = "latent",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        time_scaling: float = 1000.0,
        latent_position: PositionCode = "learned",
        interface_position: PositionCode = "learned",
        temporal_position: bool = False,
        context_mode: ContextMode = "append",
        context_embedding: bool = False,
        token_noise_level: bool = False,
        mixer_kernel: int = 0,
        xattn_enc_ln: bool = False,
    ) -> None:
        super().__init__()
        self._validate()
        self.gradient_checkpointing = False
        self.frame_size = (sample_size, sample_size) if isinstance(sample_size, int) else tuple(sample_size)
        self.predicted_frames = (num_frames or 1) - context_frames
        stacked = context_frames if context_mode == "concat" else 0

        if tokenizer is None:
            tokenizer = {"type": "patch2d", "patch_size": 4} if num_frames is None else {"type": "patch3d"}
            self.register_to_config(tokenizer=tokenizer)
        self.codec: Tokenizer = registry.tokenizers.create(
            tokenizer, in_channels=in_channels * (1 + stacked), out_channels=in_channels, dim=interface_dim
        )
        if self.codec.video != (num_frames is not None):
            kind = "images" if num_frames is None else "videos"
            raise ValueError(f"tokenizer {dict(tokenizer)} does not fit {kind}: num_frames is {num_frames}")
        self.spans = self._token_spans()
        self.grid: Grid = (len(self.spans), *self.codec.grid(1, *self.frame_size)[1:])

        # Interface: X = LN(stem) + position.
        self.stem_norm = LayerNorm(interface_dim)
        times = [start / max(self.config.num_frames - 1, 1) for start, _ in self.spans] if num_frames else [0.0]
        code = clip_code(times, *self.grid[1:], interface_dim, temporal_position)
        self.interface_rows = _position_table(code, interface_position)
        self.context_vector = Table(1, interface_dim) if context_embedding else None
        self.token_level = NoiseLevelEmbedding(interface_dim, time_scaling) if token_noise_level else None
        share = torch.tensor([share for _, share in self.spans]).repeat_interleave(self.grid[1] * self.grid[2])
        self.register_buffer("context_share", share.unsqueeze(-1), persistent=False)

        # Latents: Z = [rows, noise level, label], where the last two may sit on the interface instead.
        rows = num_latents - int(time_on_latent) - int(cond_on_latent and num_classes is not None)
        if rows < 1:
            raise ValueError(f"num_latents must leave a latent beside noise level and label, got {num_latents}")
        self.latent_rows = _position_table(sinusoid(coordinates(rows), latent_dim), latent_position)
        self.time_embedding = NoiseLevelEmbedding(latent_dim if time_on_latent else interface_dim, time_scaling)
        label_dim = latent_dim if cond_on_latent else interface_dim
        self.label_embedding = Linear(num_classes, label_dim) if num_classes is not None else None
        self.latent_recall = Recall(latent_dim, latent_mlp_ratio) if self_cond != "none" else None
        self.interface_recall = Recall(interface_dim, interface_mlp_ratio) if self_cond == "latent+interface" else None

        self.blocks = nn.ModuleList(self._block(depth) for depth in num_layers)
        self.output_norm = LayerNorm(interface_dim)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options: Any) -> Any:
        """As diffusers loads models, but whole or not at all.

        Raises:
            ValueError: A tensor is missing, left over or not finite, or the configuration has an unknown key.
        """
        with_report = options.pop("output_loading_info", False)
        try:
            model, report = super().from_pretrained(path, output_loading_info=True, **options)
        except RuntimeError as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
        for kind in ("missing", "unexpected", "mismatched"):
            if names := report.get(f"{kind}_keys"):
                raise ValueError(f"{path}: {len(names)} {kind} tensors, such as {min(map(str, names))!r}")
        for name, parameter in model.named_parameters():
            if not parameter.is_meta and not bool(parameter.isfinite().all()):
                raise ValueError(f"{path}: tensor {name!r} holds values that are not finite")
        return (model, report) if with_report else model

    def _block(self, depth: int) -> RINBlock:
        c = self.config
        write = (c.interface_dim, c.latent_dim, c.rw_num_heads, c.interface_mlp_ratio, c.xattn_enc_ln)
        # Appended context stands last among the tokens, and first in time.
        trailing = sum(share == 1 for _, share in self.spans) if c.context_mode == "append" else 0
        return RINBlock(
            read=CrossLayer(c.latent_dim, c.interface_dim, c.rw_num_heads, c.latent_mlp_ratio, c.xattn_enc_ln),
            compute=[
                ComputeLayer(c.latent_dim, c.latent_num_heads, c.latent_mlp_ratio, c.dropout, c.drop_path)
                for _ in range(depth)
            ],
            write=Write(*write, c.mixer_kernel, trailing),
        )

    def _validate(self) -> None:
        c = self.config
        for name, choices in (
            ("self_cond", SelfConditioning),
            ("latent_position", PositionCode),
            ("interface_position", PositionCode),
            ("context_mode", ContextMode),
        ):
            if c[name] not in get_args(choices):
                raise ValueError(f"{name} {c[name]!r}; known: {', '.join(get_args(choices))}")
        sizes = ("in_channels", "latent_dim", "interface_dim", "latent_num_heads", "rw_num_heads", "num_latents")
        for name in (*sizes, "latent_mlp_ratio", "interface_mlp_ratio", "num_frames", "num_classes"):
            optional = name in ("num_frames", "num_classes") and c[name] is None
            if not optional and not (isinstance(c[name], int) and c[name] >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {c[name]!r}")
        sides = [c.sample_size] * 2 if isinstance(c.sample_size, int) else c.sample_size
        if not isinstance(sides, Sequence) or len(sides) != 2 or any(not isinstance(s, int) or s < 1 for s in sides):
            raise ValueError(f"sample_size must be one or two whole numbers of at least 1, got {c.sample_size!r}")
        depths = c.num_layers
        if isinstance(depths, str | int) or not depths or any(not isinstance(d, int) or d < 0 for d in depths):
            raise ValueError(f"num_layers needs a number of layers >= 0 for each block, got {depths!r}")
        if not 0 < c.time_scaling < float("inf"):
            raise ValueError(f"time_scaling must be above 0, got {c.time_scaling}")
        if not (0 <= c.dropout < 1 and 0 <= c.drop_path < 1):
            raise ValueError(f"dropout and drop_path must be in [0, 1), got {c.dropout}, {c.drop_path}")
        for name, width in (
            ("latent_num_heads", c.latent_dim),
            ("rw_num_heads", min(c.latent_dim, c.interface_dim)),
        ):
            if width % c[name]:
                raise ValueError(f"{name}={c[name]} does not divide the attention width {width}")
        if c.latent_dim % 8 or c.interface_dim % 8:
            raise ValueError(
                f"latent_dim and interface_dim must be multiples of 8, got {c.latent_dim}, {c.interface_dim}"
            )
        if not 0 <= c.context_frames < (c.num_frames or 1):
            raise ValueError(
                f"context_frames={c.context_frames} must leave frames to predict; num_frames is {c.num_frames}"
            )
        if c.context_embedding and (c.context_mode == "concat" or not c.context_frames):
            raise ValueError("context_embedding marks tokens of context frames; this configuration has none")
        if c.temporal_position and c.interface_position == "learned":
            raise ValueError("temporal_position is part of the fixed codes; interface_position is 'learned'")
        if c.mixer_kernel < 0 or (c.mixer_kernel and c.mixer_kernel % 2 == 0):
            raise ValueError(f"mixer_kernel must be odd, or 0 for none, got {c.mixer_kernel}")

    def _token_spans(self) -> list[tuple[int, float]]:
        """First frame and share of context frames of each step of the grid's time axis, in token order."""
        c, stride = self.config, self.codec.frame_stride
        given = [(start, 1.0) for start in range(0, c.context_frames, stride)]
        predicted = [(start, 0.0) for start in range(c.context_frames, c.num_frames or 1, stride)]
        if c.context_mode == "append":
            return predicted + given
        if c.context_mode == "concat":
            return predicted
        frames = c.num_frames or 1
        return [
            (start, min(max(c.context_frames - start, 0), stride) / min(stride, frames - start))
            for start in range(0, frames, stride)
        ]

    def forward(
        self,
        sample: Tensor,
        gamma: Tensor | float,
        class_labels: Tensor | None = None,
        context: Tensor | None = None,
        latents: Tensor | None = None,
        interface: Tensor | None = None,
        return_dict: bool = True,
    ) -> RINOutput | tuple[Tensor, Tensor, Tensor]:
        """One denoising pass.

        Args:
            sample: Noisy image (B, C, H, W), or noisy predicted frames (B, C, F - c, H, W).
            gamma: Noise level in [0, 1], a scalar or (B,).
            class_labels: (B,) whole numbers; -1 is the dropped label.
            context: Clean frames (B, C, c, H, W) times the input scale; only for a model with context frames.
            latents: Final latents of the pass before (B, m, d_z); None is zeros. Ignored if the model carries none.
            interface: Final interface of the pass before (B, n, d_x), likewise.
            return_dict: Return a :class:`RINOutput` rather than a tuple of its fields.

        Raises:
            ValueError: A shape does not fit the configuration, with the shape that would; gamma or a label is out of
                its range (on an accelerator an error of the device, since reading them would stop the host).
        """
        self._validate_inputs(sample, class_labels, context, latents, interface)
        gamma = self._noise_level(gamma, sample)  # (B,)
        x = self._interface(sample, gamma, context, interface)  # (B, n, d_x)
        z, conditions = self._latents(gamma, class_labels, latents)  # (B, m, d_z), (B, 0-2, d_x)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                z, x = self._gradient_checkpointing_func(block, z, x, conditions, self.grid)
            else:
                z, x = block(z, x, conditions, self.grid)
        output = self._readout(x)  # like sample
        return RINOutput(output, z, x) if return_dict else (output, z, x)

    def _noise_level(self, gamma: Tensor | float, sample: Tensor) -> Tensor:
        if not isinstance(gamma, Tensor):
            gamma = torch.tensor(float(gamma), dtype=torch.float32)
        if gamma.shape not in ((), (len(sample),)):
            raise ValueError(f"gamma has shape {tuple(gamma.shape)}; it must be a scalar or ({len(sample)},)")
        require_range("gamma", gamma)
        return gamma.to(sample.device).expand(len(sample))

    def _interface(self, sample: Tensor, gamma: Tensor, context: Tensor | None, previous: Tensor | None) -> Tensor:
        if context is None:
            tokens = self.codec.encode(sample)
        elif self.config.context_mode == "append":
            tokens = torch.cat([self.codec.encode(sample), self.codec.encode(context)], dim=1)
        elif self.config.context_mode == "inline":
            tokens = self.codec.encode(torch.cat([context, sample], dim=2))
        else:
            stacked = context.flatten(1, 2).unsqueeze(2).expand(-1, -1, sample.shape[2], -1, -1)
            tokens = self.codec.encode(torch.cat([sample, stacked], dim=1))
        x = self.stem_norm(tokens) + self.interface_rows()  # (B, n, d_x)
        if self.context_vector is not None:
            x = x + self.context_share * self.context_vector()
        if self.token_level is not None:
            noisy, clean = self.token_level(gamma), self.token_level(torch.ones_like(gamma[:1]))
            x = x + noisy + self.context_share * (clean - noisy)
        if self.interface_recall is not None:
            x = x + self.interface_recall(torch.zeros_like(x) if previous is None else previous)
        return x

    def _latents(self, gamma: Tensor, labels: Tensor | None, previous: Tensor | None) -> tuple[Tensor, Tensor | None]:
        on_latent = [self.latent_rows().expand(len(gamma), -1, -1)]
        on_interface: list[Tensor] = []
        (on_latent if self.config.time_on_latent else on_interface).append(self.time_embedding(gamma))
        if self.label_embedding is not None:
            assert labels is not None
            # The dropped label, -1, is the all-zero vector.
            one_hot = labels.unsqueeze(-1) == torch.arange(self.config.num_classes, device=labels.device)
            token = self.label_embedding(one_hot.to(self.label_embedding.weight.dtype)).unsqueeze(1)
            (on_latent if self.config.cond_on_latent else on_interface).append(token)
        z = torch.cat(on_latent, dim=1)  # (B, m, d_z)
        if self.latent_recall is not None:
            z = z + self.latent_recall(torch.zeros_like(z) if previous is None else previous)
        return z, torch.cat(on_interface, dim=1) if on_interface else None

    def _readout(self, x: Tensor) -> Tensor:
        decoded = self.codec.decode(self.output_norm(x), self.grid)
        if self.config.num_frames is None:
            return decoded
        first = self.config.context_frames if self.config.context_mode == "inline" else 0
        return decoded[:, :, first : first + self.predicted_frames]

    def _validate_inputs(
        self,
        sample: Tensor,
        labels: Tensor | None,
        context: Tensor | None,
        latents: Tensor | None,
        interface: Tensor | None,
    ) -> None:
        c = self.config
        frames = () if c.num_frames is None else (self.predicted_frames,)
        batch = sample.shape[0]
        tokens = self.grid[0] * self.grid[1] * self.grid[2]
        require_shape("sample", sample, (batch, c.in_channels, *frames, *self.frame_size))
        given = (batch, c.in_channels, c.context_frames, *self.frame_size) if c.context_frames else None
        require_shape("context", context, given, required=True)
        require_shape("class_labels", labels, None if c.num_classes is None else (batch,), required=True)
        if labels is not None:
            require_labels(labels, c.num_classes)
        require_shape("latents", latents, (batch, c.num_latents, c.latent_dim))
        require_shape("interface", interface, (batch, tokens, c.interface_dim))


def _position_table(code: Tensor, kind: PositionCode) -> Table:
    fixed = None if kind == "learned" else code
    rows, dim = code.shape
    return Table(rows, dim, fixed, learned=kind != "sin_cos")
