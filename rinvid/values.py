"""Values that are refused before any work is done, without making an accelerator wait.

Where reading values costs nothing, a bad one is a ValueError that names it. Reading from an accelerator would stop the
host until all work before is done, at every call; there, and in compiled graphs, the check is part of the work and ends
it with an error.
"""

from __future__ import annotations

import torch
from torch import Tensor


def readable(tensor: Tensor) -> bool:
    """Whether reading values costs nothing: on the CPU, and not within a graph that is being compiled."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def require_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity."""
    finite = tensor.isfinite()
    if readable(tensor) and not bool(finite.all()):
        bad = tensor[~finite]
        raise ValueError(f"{name} holds {bad.numel()} values that are not finite, such as {float(bad[0])}")
    _require_later(finite, f"{name} holds values that are not finite")


def require_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels that are not whole numbers in [-1, num_classes)."""
    allowed = f"class_labels must be whole numbers in [0, {num_classes - 1}], or -1 for none"
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{allowed}, got {labels.dtype}")
    # (Without the cast, -1 as an unsigned number would be the largest one.)
    fits = (labels.long() >= -1) & (labels.long() < num_classes)
    if readable(labels) and not bool(fits.all()):
        raise ValueError(f"{allowed}, got {labels.tolist()}")
    _require_later(fits, allowed)


def require_range(name: str, value: Tensor) -> None:
    """Refuse values outside [0, 1]."""
    fits = (value >= 0) & (value <= 1)
    if readable(value) and not bool(fits.all()):
        raise ValueError(f"{name} must be in [0, 1], got {value.tolist()}")
    _require_later(fits, f"{name} must be in [0, 1]")


def require_shape(name: str, value: Tensor | None, shape: tuple[int, ...] | None, required: bool = False) -> None:
    """Refuse an input of a network of another shape; None as the shape is for an input that it does not take."""
    if value is None:
        if required and shape is not None:
            raise ValueError(f"{name} is missing: this model needs one of shape {shape}")
    elif shape is None:
        raise ValueError(f"{name} was given, but this model is configured without it")
    elif tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; this model needs {shape}")


def _require_later(fits: Tensor, message: str) -> None:
    # (Other devices have no such check.)
    if not readable(fits) and fits.device.type in ("cpu", "cuda"):
        torch._assert_async(fits.all(), message)
