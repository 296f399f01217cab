"""Noise levels whose log signal-to-noise ratio is Laplace distributed (Hang et al. 2024, section 3.2)."""

from dataclasses import dataclass

from torch import Tensor

from rinvid.schedules import GAMMA_MIN, Schedule


@dataclass(frozen=True)
class Laplace(Schedule):
    """With t uniform in [0, 1], log(gamma / (1 - gamma)) has the Laplace density of mean mu and scale b.

    Args:
        mu: Where the noise levels are densest, as a log signal-to-noise ratio.
        b: Width of the density, > 0; small values train on mid noise levels only.

    Raises:
        ValueError: ``b`` is not above 0.
    """

    mu: float = 0.0
    b: float = 0.5

    def __post_init__(self) -> None:
        if self.b <= 0:
            raise ValueError(f"laplace schedule needs b > 0, got {self.b}")

    def gamma(self, t: Tensor) -> Tensor:
        from_middle = 0.5 - t
        # The tails reach infinity at t = 0 and 1: the clamp keeps their logarithm finite.
        tail = (1 - 2 * from_middle.abs()).clamp(min=1e-12).log()
        return (self.mu - self.b * from_middle.sign() * tail).sigmoid().clamp(GAMMA_MIN, 1)
