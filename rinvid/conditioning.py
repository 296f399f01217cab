"""What a pass is conditioned on beside the noise level: the latents of another pass, and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentCarry:
    """The latents (and interface) that condition the next pass; empty at the start of a trajectory.

    Attributes:
        latents: (B, m, d_z), or None for zeros.
        interface: (B, n, d_x), or None for zeros.
    """

    latents: Tensor | None = None
    interface: Tensor | None = None

    @classmethod
    def join(cls, parts: Sequence[LatentCarry]) -> LatentCarry:
        """The carries of parts of a batch as one."""
        fields = zip(*(part._fields() for part in parts), strict=True)
        return cls(*(None if values[0] is None else torch.cat(values) for values in fields))

    def part(self, first: int, end: int) -> LatentCarry:
        """The carry of the samples from ``first`` to ``end`` of a batch."""
        return LatentCarry(*(None if x is None else x[first:end] for x in self._fields()))

    @classmethod
    def of(cls, output: Any) -> LatentCarry:
        """What a model's output hands on, cut off from its gradient."""
        return cls(output.latents.detach(), output.interface.detach())

    def keep(self, mask: Tensor) -> LatentCarry:
        """The same where ``mask`` (B,) is true, zeros elsewhere."""
        return LatentCarry(*(None if x is None else x * mask.reshape(-1, 1, 1).to(x.dtype) for x in self._fields()))

    def _fields(self) -> tuple[Tensor | None, Tensor | None]:
        return self.latents, self.interface

    def inputs(self) -> dict[str, Tensor | None]:
        """Keyword arguments of the model's next pass."""
        return {"latents": self.latents, "interface": self.interface}


def self_conditioning_mask(
    batch: int, rate: float, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Which samples keep their self-conditioning latents in training, (B,) bool, each with probability ``rate``."""
    return torch.rand(batch, generator=generator, device=device) > 1 - rate


def drop_labels(labels: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Labels (B,), each replaced by -1, the dropped label, with probability ``rate``.

    Training so is what classifier-free guidance needs (Ho and Salimans 2022, algorithm 1).
    """
    return labels.where(torch.rand(labels.shape, generator=generator, device=labels.device) >= rate, -1)


def guided(
    model: Any,
    inputs: Mapping[str, Any],
    carry: LatentCarry,
    scale: float = 0.0,
    negative_labels: Tensor | None = None,
    max_batch_size: int | None = None,
) -> tuple[Tensor, LatentCarry]:
    """One pass with classifier-free guidance: the output, and what the next pass is given.

    The output is ``(1 + scale) * conditional - scale * unconditional``. Both passes run as one batch, see the same
    carried latents, and the conditional one hands its latents on.

    Args:
        model: A model with the forward of :class:`rinvid.RINModel`.
        inputs: Its keyword arguments, ``class_labels`` (B,) among them unless ``scale`` is 0.
        carry: What the pass before handed on.
        scale: Guidance scale w; 0 is none.
        negative_labels: Labels (B,) of the unconditional pass; None is the dropped label.
        max_batch_size: Samples that the network takes at once; None is all of them.

    Returns:
        The network's output, shaped like the sample, and the new carry.

    Raises:
        ValueError: ``scale`` is not 0 and there are no labels, or ``max_batch_size`` is below 1.
    """
    if scale == 0:
        return _pass(model, inputs, carry, max_batch_size)
    labels = inputs.get("class_labels")
    if labels is None:
        raise ValueError(f"guidance_scale={scale} needs class labels; without labels it must be 0")
    both = {name: torch.cat([value, value]) if _by_sample(value) else value for name, value in inputs.items()}
    away_from = torch.full_like(labels, -1) if negative_labels is None else negative_labels
    both["class_labels"] = torch.cat([labels, away_from])
    output, handed_on = _pass(model, both, LatentCarry.join([carry, carry]), max_batch_size)
    conditional, unconditional = output.chunk(2)
    return (1 + scale) * conditional - scale * unconditional, handed_on.part(0, len(labels))


def _pass(
    model: Any, inputs: Mapping[str, Any], carry: LatentCarry, max_batch_size: int | None
) -> tuple[Tensor, LatentCarry]:
    """The network on a batch, in parts if it is larger than ``max_batch_size``."""
    batch = len(inputs["sample"])
    size = batch if max_batch_size is None else max_batch_size
    if size < 1:
        raise ValueError(f"max_batch_size must be at least 1, got {max_batch_size}")
    if batch <= size:
        output = model(**inputs, **carry.inputs())
        return output.sample, LatentCarry.of(output)
    samples, carries = [], []
    for first in range(0, batch, size):
        own = {name: value[first : first + size] if _by_sample(value) else value for name, value in inputs.items()}
        output = model(**own, **carry.part(first, first + size).inputs())
        samples.append(output.sample)
        carries.append(LatentCarry.of(output))
    return torch.cat(samples), LatentCarry.join(carries)


def _by_sample(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
