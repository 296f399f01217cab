"""Noise schedules: gamma(t), the share of signal variance left at time t (Chen 2023, section 2).

t runs from 0 (data) to 1 (noise) and gamma falls from 1 to 0. A schedule is a frozen dataclass whose
fields are its JSON parameters, so ``schedule.config`` and ``create_schedule`` are inverses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rinvid import registry

# Keeps log(gamma) and 1 / sqrt(gamma) finite at t = 1, as the authors do.
GAMMA_MIN = 1e-9


class Schedule(ABC):
    """Contract of a noise schedule; subclasses are frozen dataclasses that define :meth:`gamma`."""

    @abstractmethod
    def gamma(self, t: Tensor) -> Tensor:
        """gamma at times ``t`` in [0, 1]; same shape and dtype, values in [0, 1], decreasing in t."""

    def __call__(self, t: Tensor) -> Tensor:
        """gamma(t) for a float32 or float64 tensor of any shape.

        Raises:
            TypeError: ``t`` is not a float32 or float64 tensor.
        """
        if not isinstance(t, Tensor) or t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"t must be a float32 or float64 tensor, got {getattr(t, 'dtype', type(t).__name__)}")
        return self.gamma(t)

    @property
    def config(self) -> dict[str, Any]:
        """``{"type": name, **parameters}``, from which :func:`create_schedule` makes an equal schedule."""
        return {"type": registry.schedules.name_of(type(self)), **asdict(self)}  # type: ignore[call-overload]


def create_schedule(spec: registry.Spec | Schedule, **parameters: Any) -> Schedule:
    """A schedule from its name or spec; a schedule object is returned as it is.

    Example:
        >>> create_schedule("sigmoid", tau=0.9)
        Sigmoid(start=-3.0, end=3.0, tau=0.9)

    Raises:
        ValueError: Unknown name or parameter, or a parameter out of its range.
    """
    if isinstance(spec, Schedule):
        if parameters:
            raise TypeError(f"{spec} is a schedule already; parameters {sorted(parameters)} need a name")
        return spec
    schedule = registry.schedules.create(spec, **parameters)
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule {spec!r} made a {type(schedule).__name__}, not a rinvid.schedules.Schedule")
    return schedule


def require_signal(schedule: Schedule, prediction_type: str) -> None:
    """Refuse a schedule that reaches gamma = 0 where x0 is read off by dividing by sqrt(gamma).

    Raises:
        ValueError: Epsilon prediction with such a schedule.
    """
    if prediction_type == "epsilon" and schedule(torch.ones((), device="cpu")) <= 0:
        raise ValueError(
            f"schedule {schedule} reaches gamma = 0, where epsilon prediction has no x0; "
            "use sample or v_prediction, or a schedule that stays above 0"
        )


def _normalised(v: Callable[[Tensor], Tensor], t: Tensor, start: float, end: float) -> Tensor:
    """``v`` on [start, end], shifted and scaled to fall from 1 at t = 0 to 0 at t = 1."""
    v_start, v_end = v(t.new_full((), start)), v(t.new_full((), end))
    return (v(t * (end - start) + start) - v_end) / (v_start - v_end)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Cosine(Schedule):
    """cos(s pi / 2)^(2 tau) on [start, end]; without parameters the simple form with small offsets.

    Args:
        start: Left end of the part of the curve used, in [0, 1); 0 when only others are given.
        end: Right end, in (start, 1]; 1 when only others are given.
        tau: Temperature > 0; 1 when only others are given.

    Source: Chen 2023, algorithm 1; the simple form is that of the released code.
    """

    start: float | None = None
    end: float | None = None
    tau: float | None = None

    def __post_init__(self) -> None:
        start, end, tau = self._parameters()
        _require(0 <= start < end <= 1, f"cosine schedule needs 0 <= start < end <= 1, got {start}, {end}")
        _require(tau > 0, f"cosine schedule needs tau > 0, got {tau}")

    def _parameters(self) -> tuple[float, float, float]:
        return (
            0.0 if self.start is None else self.start,
            1.0 if self.end is None else self.end,
            1.0 if self.tau is None else self.tau,
        )

    def gamma(self, t: Tensor) -> Tensor:
        if self.start is None and self.end is None and self.tau is None:
            return ((t + 0.0002) / 1.00025 * (math.pi / 2)).cos() ** 2
        start, end, tau = self._parameters()
        # The cosine of a float32 pi/2 is slightly negative, and no real number raised to 2 tau.
        curve = _normalised(lambda s: (s * (math.pi / 2)).cos().clamp(min=0) ** (2 * tau), t, start, end)
        return curve.clamp(GAMMA_MIN, 1)


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """sigmoid(-s / tau) on [start, end] (Chen 2023, algorithm 1).

    Args:
        start: Left end of the part of the curve used.
        end: Right end, > start.
        tau: Temperature > 0; smaller is steeper in the middle.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 0.9

    def __post_init__(self) -> None:
        _require(self.start < self.end, f"sigmoid schedule needs start < end, got {self.start}, {self.end}")
        _require(self.tau > 0, f"sigmoid schedule needs tau > 0, got {self.tau}")

    def gamma(self, t: Tensor) -> Tensor:
        return _normalised(lambda s: (s / self.tau).sigmoid(), t, self.start, self.end).clamp(GAMMA_MIN, 1)


@dataclass(frozen=True)
class Linear(Schedule):
    """gamma = 1 - t, best together with an input scale below 1 (Chen 2023, section 3)."""

    def gamma(self, t: Tensor) -> Tensor:
        return (1 - t).clamp(GAMMA_MIN, 1)


@dataclass(frozen=True)
class Log(Schedule):
    """Logarithm on [start, end]; reaches gamma = 0, so it cannot be used with epsilon prediction.

    Args:
        start: Left end, > 0.
        end: Right end, > start.
        reverse: Run the curve from ``end`` to ``start``, which keeps the signal longer.
    """

    start: float = 1.0
    end: float = 100.0
    reverse: bool = False

    def __post_init__(self) -> None:
        _require(0 < self.start < self.end, f"log schedule needs 0 < start < end, got {self.start}, {self.end}")

    def gamma(self, t: Tensor) -> Tensor:
        start, end = (self.end, self.start) if self.reverse else (self.start, self.end)
        return _normalised(torch.log, t, start, end).clamp(0, 1)
