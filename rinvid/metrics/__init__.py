"""Metrics on features and frames."""

from rinvid.metrics.frechet import frechet_distance

__all__ = ["frechet_distance"]
