"""PSNR and SSIM on cases with known answers."""

import math

import pytest
import torch

from rinvid.metrics.frames import psnr, ssim


def clips(batch: int = 2, frames: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, frames, 16, 16, generator=generator) * 2 - 1


@pytest.mark.parametrize(("error", "decibels"), [(2.0, 0.0), (0.2, 20.0), (0.02, 40.0)])
def test_psnr_of_a_constant_error(error: float, decibels: float) -> None:
    truth = torch.zeros(2, 3, 4, 8, 8)
    assert psnr(truth + error, truth).tolist() == pytest.approx([decibels] * 2, abs=1e-4)


def test_psnr_is_of_the_whole_clip_and_by_clip() -> None:
    truth = torch.zeros(2, 1, 2, 4, 4)
    made = truth.clone()
    made[0, :, 0] = 0.4  # a mean over frames of their decibels would be infinite
    made[1] = 0.1
    expected = [10 * math.log10(4 / (0.16 / 2)), 10 * math.log10(4 / 0.01)]
    assert psnr(made, truth).tolist() == pytest.approx(expected, abs=1e-4)


def test_psnr_of_equal_clips_is_finite() -> None:
    assert psnr(clips(), clips()).tolist() == pytest.approx([10 * math.log10(4e10)] * 2)


def test_ssim_of_equal_clips_is_one() -> None:
    assert ssim(clips(), clips()).tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.5), (0.75, 0.25), (1.0, 0.0), (0.1, 0.0)])
def test_ssim_of_flat_clips_is_the_luminance_term(a: float, b: float) -> None:
    # Wang et al. 2004, equation 6, which is of light: brightnesses in [0, 1], where black is zero.
    c1 = 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    flat = torch.ones(2, 3, 2, 16, 16)
    assert ssim((2 * a - 1) * flat, (2 * b - 1) * flat).tolist() == pytest.approx([expected] * 2, abs=1e-3)


def test_ssim_is_the_mean_over_frames_by_clip() -> None:
    truth = clips(batch=2, frames=2)
    made = truth.clone()
    made[0, :, 1] = -truth[0, :, 1]
    first, second = ssim(made, truth).tolist()
    alone = float(ssim(made[:1, :, 1:], truth[:1, :, 1:]))
    assert alone < 0.9
    assert first == pytest.approx((1 + alone) / 2, abs=1e-5)
    assert second == pytest.approx(1, abs=1e-5)
