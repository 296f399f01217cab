"""The schedule against the distribution that it is named for, and its registration."""

import pytest
import torch
from rinvid_laplace import Laplace

from rinvid.prediction import log_snr
from rinvid.registry import schedules


def test_log_snr_has_the_laplace_quantiles():
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = torch.distributions.Laplace(0.3, 0.7).icdf(1 - t)
    torch.testing.assert_close(log_snr(Laplace(mu=0.3, b=0.7)(t)), expected, rtol=1e-5, atol=1e-5)


def test_gamma_falls_from_one_to_almost_zero():
    gamma = Laplace()(torch.linspace(0, 1, 101))
    assert (gamma.diff() <= 0).all()
    assert gamma[0] > 0.99
    assert 0 < gamma[-1] < 0.01


def test_it_is_found_by_name():
    schedule = schedules.create({"type": "laplace", "b": 0.4})
    assert schedule == Laplace(b=0.4)
    assert schedule.config == {"type": "laplace", "mu": 0.0, "b": 0.4}


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="b > 0, got 0"):
        Laplace(b=0)
