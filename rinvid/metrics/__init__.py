"""Metrics on features and frames, computed in float64 where sums are long."""

from rinvid.metrics.frechet import frechet_distance

__all__ = ["frechet_distance"]
