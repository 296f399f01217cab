"""The pipeline that comes with the package."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import rinvid
from rinvid import pretrained
from rinvid.data.clips import VideoClips
from rinvid.data.digits import write_digits
from rinvid.data.loader import held_out
from rinvid.data.videos import open_videos
from rinvid.evaluation import predict_clips, score_clips


def test_it_predicts_digits_it_never_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "home"))
    write_digits(tmp_path / "digits", limit=48, frames=16)
    pipeline = rinvid.RINVideoPipeline.from_pretrained(pretrained.pretrained_folder("digits"))
    videos = open_videos(tmp_path / "digits", 16, 32, show_progress=False)
    truth, _, _ = held_out(VideoClips(videos.parts["val"], 16), 8)
    predicted = predict_clips(pipeline, truth, steps=20, seed=0)
    scores = score_clips(truth, predicted, context_frames=5)
    assert np.array_equal(predicted[:, :5], truth[:, :5])
    assert scores["prediction"]["psnr"] > scores["copy_last_frame"]["psnr"] + 2


def test_it_is_small() -> None:
    weights = list(pretrained.pretrained_folder("digits").rglob("*.safetensors"))
    assert len(weights) == 1
    assert weights[0].stat().st_size < 8_000_000


def test_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "digits"
    shutil.copytree(pretrained.pretrained_folder("digits"), copy)
    weights = next(copy.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(pretrained, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=r"safetensors is damaged"):
        pretrained.pretrained_folder("digits")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(FileNotFoundError, match=r"no pretrained pipeline 'imagenet'.*known: digits"):
        pretrained.pretrained_folder("imagenet")
