"""When the values inside a tensor may be looked at, to refuse bad ones before any work is done."""

from __future__ import annotations

import torch
from torch import Tensor


def readable(tensor: Tensor) -> bool:
    """Whether reading values costs nothing: on the CPU, and not within a graph that is being compiled.

    On an accelerator the read would stop the host until all work before it is done, at every call.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError if a readable tensor holds NaN or infinity."""
    if readable(tensor) and not bool(tensor.isfinite().all()):
        bad = tensor[~tensor.isfinite()]
        raise ValueError(f"{name} holds {bad.numel()} values that are not finite, such as {float(bad[0])}")


def require_labels(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless labels are whole numbers in [-1, num_classes), the values where readable."""
    allowed = f"class_labels must be whole numbers in [0, {num_classes - 1}], or -1 for none"
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{allowed}, got {labels.dtype}")
    # (Without the cast, -1 as an unsigned number would be the largest one.)
    if readable(labels) and not bool(((labels.long() >= -1) & (labels.long() < num_classes)).all()):
        raise ValueError(f"{allowed}, got {labels.tolist()}")


def require_range(name: str, value: Tensor) -> None:
    """Raise ValueError if a readable tensor leaves [0, 1]."""
    if readable(value) and not bool(((value >= 0) & (value <= 1)).all()):
        raise ValueError(f"{name} must be in [0, 1], got {value.tolist()}")
