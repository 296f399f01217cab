"""What a run is, as frozen dataclasses: the command line, a YAML file and the run folder all hold the same fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rinvid.prediction import LossType, PredictionType

Precision = Literal["auto", "no", "bf16"]
OptimizerName = Literal["adamw", "lamb", "muon"]


def _check(config: object, name: str, allowed: bool, what: str) -> None:
    if not allowed:
        raise ValueError(f"{name} must be {what}, got {getattr(config, name)}")


@dataclass(frozen=True)
class DataConfig:
    """Which clips.

    Attributes:
        root: Folder of videos in any layout, or a clip cache of rinvid data prepare; null makes the data set named by
            source.
        source: Spec of a data set that makes its own folder of videos, by default the embedded moving digits.
        index: What rinvid data scan found in root; null scans it on first use.
        stride: Distance between a clip's frames.
        fps: Frames a second of a clip, instead of a stride.
        resize: "crop" cuts a square out of a frame, "stretch" makes the whole frame square.
        crop: Where the square lies in training: centre, or random for one place a clip.
        flip: Mirror half of the training clips left to right.
        clips: Which windows of a training video: random, first, centre, or all that do not overlap.
        backend: Decoder: auto, pyav or decord.
        num_workers: Processes that read training clips; 0 reads in the training process.
        start_method: How these are started: spawn, fork or forkserver.
        timeout: Seconds without data after which a worker counts as stuck.
        max_broken: Share of training clips that may be broken and replaced before the run stops.
        cache_mb: Videos are decoded once into a clip cache if all their frames fit into this many MiB.
    """

    root: str | None = None
    source: Mapping[str, Any] = field(default_factory=lambda: {"type": "digits"})
    index: str | None = None
    stride: int = 1
    fps: float | None = None
    resize: Literal["crop", "stretch"] = "crop"
    crop: Literal["centre", "random"] = "centre"
    flip: bool = False
    clips: Literal["random", "first", "centre", "all"] = "random"
    backend: Literal["auto", "pyav", "decord"] = "auto"
    num_workers: int = 0
    start_method: Literal["spawn", "fork", "forkserver"] = "spawn"
    timeout: float = 120.0
    max_broken: float = 0.05
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        _check(self, "stride", self.stride >= 1, "at least 1")
        _check(self, "fps", self.fps is None or (self.fps > 0 and self.stride == 1), "above 0, with a stride of 1")
        _check(self, "timeout", self.timeout > 0, "above 0")
        _check(self, "max_broken", 0 <= self.max_broken <= 1, "in [0, 1]")
        for name in ("num_workers", "cache_mb"):
            _check(self, name, getattr(self, name) >= 0, "at least 0")


@dataclass(frozen=True)
class DiffusionConfig:
    """The objective; see :func:`rinvid.training.diffusion_loss`.

    Attributes:
        schedule: Spec of the noise schedule trained with.
        prediction_type: What the network's output means: epsilon, sample or v_prediction.
        loss_type: Where the squared error is taken: epsilon, sample or v_prediction.
        input_scale: Factor in (0, 1] on the data before noise is added.
        normalize_input: Give the network its noisy input at unit variance.
        self_cond_rate: Probability with which a sample keeps the latents of its first pass.
        min_snr: Cap of the min-SNR loss weights, 5 in their paper; null for no weights.
        label_dropout: Probability with which a label is dropped, for classifier-free guidance.
    """

    schedule: Mapping[str, Any] = field(default_factory=lambda: {"type": "sigmoid"})
    prediction_type: PredictionType = "epsilon"
    loss_type: LossType = "epsilon"
    input_scale: float = 1.0
    normalize_input: bool = False
    self_cond_rate: float = 0.9
    min_snr: float | None = None
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "input_scale", 0 < self.input_scale <= 1, "in (0, 1]")
        _check(self, "self_cond_rate", 0 <= self.self_cond_rate <= 1, "in [0, 1]")
        _check(self, "label_dropout", 0 <= self.label_dropout <= 1, "in [0, 1]")
        _check(self, "min_snr", self.min_snr is None or self.min_snr > 0, "above 0")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser.

    Attributes:
        name: "adamw"; "lamb", the authors' choice; or "muon" for the matrices inside the network, AdamW for the rest.
        lr: Learning rate at the end of the warm-up.
        schedule: Learning-rate curve: none, linear, cosine or cosine@r.
        warmup_steps: Steps of linear warm-up from 0.
        weight_decay: Decoupled weight decay; biases and gains get none.
        betas: Decay rates of the moments of AdamW and LAMB.
        max_grad_norm: Gradients are clipped to this norm.
        ema_decay: Constant decay of the averaged weights that sampling and evaluation use.
    """

    name: OptimizerName = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        _check(self, "ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        _check(self, "lr", self.lr > 0, "above 0")
        _check(self, "betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)")
        for name in ("weight_decay", "warmup_steps"):
            _check(self, name, getattr(self, name) >= 0, "at least 0")
        _check(self, "max_grad_norm", self.max_grad_norm > 0, "above 0")


@dataclass(frozen=True)
class SamplingConfig:
    """How clips are sampled; the prediction type and the input scale come from the objective.

    Attributes:
        scheduler: Spec of the sampler with its own noise schedule.
        num_inference_steps: Sampling steps.
    """

    scheduler: Mapping[str, Any] = field(default_factory=lambda: {"type": "ddim", "schedule": {"type": "cosine"}})
    num_inference_steps: int = 100

    def __post_init__(self) -> None:
        _check(self, "num_inference_steps", self.num_inference_steps >= 1, "at least 1")


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured at the end of a run.

    Attributes:
        num_clips: Val clips to predict; fewer if the data has fewer.
        batch_size: Clips sampled at a time.
        num_examples: Clips shown in pictures.
    """

    num_clips: int = 256
    batch_size: int = 64
    num_examples: int = 8

    def __post_init__(self) -> None:
        for name in ("num_clips", "batch_size", "num_examples"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        preset: Name of the preset that the run started from.
        model: Arguments of :class:`rinvid.RINModel`.
        output_dir: Run folder; null is runs/<preset>, numbered where that exists.
        resume: "never"; "auto", from the run folder's last checkpoint if there is one; or the path of a checkpoint.
        seed: Seed of weights, data order, noise and samples.
        max_steps: Optimiser steps.
        batch_size: Clips a step, over all processes.
        precision: "no" is float32, "bf16" mixed precision, "auto" bf16 on a GPU that has it.
        log_every: Steps between lines of metrics.jsonl.
        watch_every: Steps between sample strips and context gain; 0 for none before the end.
        checkpoint_every: Steps between checkpoints; 0 for one at the end.
        keep_checkpoints: How many of the last checkpoints stay.
    """

    preset: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    output_dir: str | None = None
    resume: str = "never"
    seed: int = 0
    max_steps: int = 1000
    batch_size: int = 16
    precision: Precision = "auto"
    log_every: int = 10
    watch_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "log_every", "keep_checkpoints"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("seed", "watch_every", "checkpoint_every"):
            _check(self, name, getattr(self, name) >= 0, "at least 0")
