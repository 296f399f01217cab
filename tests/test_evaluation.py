"""Scores of predicted clips, what trivial predictions reach, and whether context is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rinvid.data.clips import to_model_range
from rinvid.evaluation import GAIN_TIMES, context_gain, predict_clips, score_clips
from rinvid.models.rin import RINModel, RINOutput
from rinvid.pipelines.video import RINVideoPipeline
from rinvid.schedulers.gamma import GammaDDIMScheduler
from tests.helpers import randomised, small_model

SIDE, FRAMES, GIVEN = 16, 8, 3
OPTIONS: dict[str, Any] = {"schedule": {"type": "cosine"}, "prediction_type": "sample", "self_cond_rate": 0.9}


def clips(count: int = 4) -> np.ndarray:
    """Smooth moving pictures (count, 8, 16, 16, 3), each of its own."""
    rng = np.random.default_rng(0)
    f, y, x = np.meshgrid(np.arange(FRAMES), np.arange(SIDE), np.arange(SIDE), indexing="ij")
    waves = [
        np.stack([np.sin((x * a + y * b) / 4 + f * c) for a, b, c in rng.uniform(-1, 1, (3, 3))], -1)
        for _ in range(count)
    ]
    return np.rint(127.5 + 100 * np.stack(waves)).astype(np.uint8)


def mean_frame() -> Tensor:
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) - 0.5


def model(**changes: Any) -> RINModel:
    config = {"sample_size": SIDE, "num_frames": FRAMES, "context_frames": GIVEN}
    return randomised(small_model(**config | changes), std=0.05)


# -- scores


def test_a_perfect_prediction() -> None:
    scores = score_clips(clips(), clips(), GIVEN, mean_frame())
    assert scores["prediction"]["psnr"] >= 99
    assert scores["prediction"]["ssim"] == pytest.approx(1, abs=1e-5)
    assert scores["frechet_random3d"] == pytest.approx(0, abs=1e-6)
    assert len(scores["psnr_by_frame"]) == FRAMES - GIVEN
    assert min(scores["psnr_by_frame"]) >= 99
    assert scores["motion"]["real"] == scores["motion"]["predicted"] > 0


def decibels(guess: np.ndarray, target: np.ndarray) -> float:
    """Mean over clips of the peak signal-to-noise ratio, with values in [0, 255]."""
    error = np.square(guess.astype(float) - target.astype(float)).reshape(len(target), -1).mean(1)
    return float((10 * np.log10(255**2 / error)).mean())


def test_trivial_predictions_against_a_direct_computation() -> None:
    truth = clips()
    scores = score_clips(truth, truth, GIVEN, mean_frame())
    target = truth[:, GIVEN:]
    mean = (mean_frame().permute(1, 2, 0).numpy() + 1) * 127.5
    guesses = {
        "copy_last_frame": truth[:, GIVEN - 1 : GIVEN].repeat(FRAMES - GIVEN, 1),
        "mean_context_frame": truth[:, :GIVEN].astype(float).mean(1, keepdims=True).repeat(FRAMES - GIVEN, 1),
        "mean_frame": np.broadcast_to(mean, target.shape),
    }
    for name, guess in guesses.items():
        assert scores[name]["psnr"] == pytest.approx(decibels(guess, target), abs=1e-4)
        assert -1 < scores[name]["ssim"] < 0.999
    assert scores.keys() == {*guesses, "prediction", "psnr_by_frame", "motion", "frechet_random3d"}


def test_scores_of_a_given_error() -> None:
    truth = clips()
    predicted = truth.copy()
    predicted[:, GIVEN + 1] = np.where(truth[:, GIVEN + 1] < 128, truth[:, GIVEN + 1] + 20, truth[:, GIVEN + 1] - 20)
    scores = score_clips(truth, predicted, GIVEN, mean_frame())
    of_frame = 10 * np.log10(255**2 / 20**2)
    assert scores["psnr_by_frame"][1] == pytest.approx(of_frame, abs=1e-3)
    assert min(scores["psnr_by_frame"][0], *scores["psnr_by_frame"][2:]) >= 99
    assert scores["prediction"]["psnr"] == pytest.approx(of_frame + 10 * np.log10(FRAMES - GIVEN), abs=1e-3)
    assert scores["prediction"]["ssim"] < 0.999
    assert scores["frechet_random3d"] > 1e-6


def test_given_frames_are_not_scored() -> None:
    truth = clips()
    predicted = truth.copy()
    predicted[:, :GIVEN] = 0
    scores = score_clips(truth, predicted, GIVEN, mean_frame())
    assert scores["prediction"]["psnr"] >= 99
    assert min(scores["psnr_by_frame"]) >= 99


def test_motion() -> None:
    truth = clips()
    still = truth[:, :1].repeat(FRAMES, 1)
    motion = score_clips(truth, still, GIVEN, mean_frame())["motion"]
    assert motion["predicted"] == 0
    assert motion["real"] == pytest.approx(np.abs(np.diff(truth.astype(float), axis=1)).mean() / 127.5, rel=1e-5)


def test_without_context_and_with_one_clip() -> None:
    scores = score_clips(clips(1), clips(1), 0, mean_frame())
    assert scores.keys() == {"prediction", "mean_frame", "psnr_by_frame", "motion"}
    assert len(scores["psnr_by_frame"]) == FRAMES


def test_scores_are_plain_numbers() -> None:
    def leaves(value: Any) -> list[Any]:
        if isinstance(value, dict | list):
            return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in leaves(part)]
        return [value]

    assert {type(leaf) for leaf in leaves(score_clips(clips(), clips(), GIVEN, mean_frame()))} == {float}


# -- sampling


@pytest.fixture(scope="module")
def pipeline() -> RINVideoPipeline:
    """A pipeline of a small random network."""
    return RINVideoPipeline(model(), GammaDDIMScheduler(prediction_type="v_prediction"))


def test_predictions_do_not_depend_on_the_batch(pipeline: RINVideoPipeline) -> None:
    truth = clips(5)
    together = predict_clips(pipeline, truth, steps=3, seed=1)
    assert (together.shape, together.dtype) == (truth.shape, np.uint8)
    np.testing.assert_array_equal(together[:, :GIVEN], truth[:, :GIVEN])
    for batch_size in (1, 2, 5):
        parts = predict_clips(pipeline, truth, 3, 1, batch_size)
        assert np.abs(parts.astype(int) - together).max() <= 1
    assert (predict_clips(pipeline, truth, 3, 2) != together).any()


def test_prediction_sees_the_given_frames_only(pipeline: RINVideoPipeline) -> None:
    truth = clips(2)
    hidden = truth.copy()
    hidden[:, GIVEN:] = 0
    np.testing.assert_array_equal(predict_clips(pipeline, truth, 3, 1), predict_clips(pipeline, hidden, 3, 1))


def test_whole_clips_without_context() -> None:
    pipe = RINVideoPipeline(model(context_frames=0), GammaDDIMScheduler(prediction_type="v_prediction"))
    made = predict_clips(pipe, clips(3), 2, 0, batch_size=2)
    assert made.shape == (3, FRAMES, SIDE, SIDE, 3)
    assert (made[0] != made[2]).any()


# -- the use of context


class Deaf(RINModel):
    """A model that ignores the context that it is given."""

    def forward(self, sample: Tensor, gamma: Tensor, context: Tensor | None = None, **other: Any) -> RINOutput:
        assert context is not None
        return super().forward(sample, gamma, context=torch.zeros_like(context), **other)


def gains(network: RINModel, **options: Any) -> dict[str, float]:
    return context_gain(network, to_model_range(torch.from_numpy(clips())), OPTIONS | options, seed=3)


def test_no_gain_for_a_model_that_ignores_context() -> None:
    listening = model()
    deaf = Deaf(**{key: value for key, value in listening.config.items() if not key.startswith("_")}).eval()
    deaf.load_state_dict(listening.state_dict())
    heard, ignored = gains(listening), gains(deaf)
    assert heard.keys() == ignored.keys()
    for time in GAIN_TIMES:
        assert ignored[f"context_gain/t={time}"] == 0
        assert abs(heard[f"context_gain/t={time}"]) > 1e-5
        assert ignored[f"own_context_error/t={time}"] > 0


class Copying(RINModel):
    """A model whose clean sample is the last given frame."""

    def forward(self, sample: Tensor, gamma: Tensor, context: Tensor | None = None, **other: Any) -> RINOutput:
        assert context is not None
        output = super().forward(sample, gamma, context=context, **other)
        output.sample = context[:, :, -1:].expand_as(sample)
        return output


@pytest.mark.parametrize("input_scale", [1.0, 0.5])
def test_gain_of_a_model_that_copies(input_scale: float) -> None:
    copying = Copying(**{key: value for key, value in model().config.items() if not key.startswith("_")}).eval()
    found = gains(copying, input_scale=input_scale)
    video = to_model_range(torch.from_numpy(clips())).double()
    last, target = video[:, :, GIVEN - 1 : GIVEN], video[:, :, GIVEN:]
    own, other = (float((guess - target).square().mean()) for guess in (last, last.roll(1, 0)))
    for time in GAIN_TIMES:
        assert found[f"own_context_error/t={time}"] == pytest.approx(own, rel=1e-4)
        assert found[f"context_gain/t={time}"] == pytest.approx(other - own, rel=1e-4)
    assert other > own


def test_gain_is_the_same_at_every_call() -> None:
    network = model()
    assert gains(network) == gains(network)


def test_gain_needs_context_and_two_clips() -> None:
    video = to_model_range(torch.from_numpy(clips()))
    assert context_gain(model(context_frames=0), video, OPTIONS, 0) == {}
    assert context_gain(model(), video[:1], OPTIONS, 0) == {}
