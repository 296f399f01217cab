"""Pictures of predictions and of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from rinvid.data import read_clip
from rinvid.data.decode import open_video
from rinvid.visual import CELL, GIVEN, MADE, TRUE, comparison, plot_training, save_gif, save_image, save_mp4, strip

Clips = np.ndarray


def clips(count: int = 3, frames: int = 5, side: int = 16) -> tuple[Clips, Clips]:
    """True clips in dark greens and predicted ones in dark reds, each frame of one colour of its own."""
    levels = (20 + 2 * np.arange(count * frames)).reshape(count, frames, 1, 1).astype(np.uint8)
    truth, prediction = (np.zeros((count, frames, side, side, 3), np.uint8) for _ in range(2))
    truth[..., 1], prediction[..., 0] = levels, levels
    return truth, prediction


def share(picture: np.ndarray, colour: tuple[int, ...]) -> float:
    """How much of a picture has exactly this colour."""
    return float((picture == np.array(colour, np.uint8)).all(-1).mean())


# -- comparison


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("side", [15, 16, 33, 96, 101])
def test_comparison_has_even_sides(side: int, columns: int) -> None:
    truth, prediction = clips(side=side)
    video = comparison(truth, prediction, 2, columns)
    assert (video.dtype, video.ndim, video.shape[0], video.shape[3]) == (np.uint8, 4, 5, 3)
    height, width = video.shape[1:3]
    assert height % 2 == width % 2 == 0
    rows = -(-3 // columns)
    assert height >= rows * max(side, CELL)
    assert width >= columns * 3 * max(side, CELL)


def test_comparison_shows_every_frame_in_its_place() -> None:
    truth, prediction = clips()
    video = comparison(truth, prediction, context_frames=2, columns=2)
    area = CELL * CELL / (video.shape[1] * video.shape[2])
    for f, picture in enumerate(video):
        for clip in range(3):
            held = truth[clip, min(f, 1), 0, 0]  # the context column holds the last given frame
            in_view = share(picture, tuple(held)), share(picture, tuple(truth[clip, f, 0, 0]))
            assert in_view == pytest.approx((2 * area, 2 * area) if f < 2 else (area, area), rel=0.01)
            assert share(picture, tuple(prediction[clip, f, 0, 0])) == pytest.approx(area, rel=0.01)
        # Borders: all given at first; then the true and the made frames have colours of their own.
        borders = [share(picture, colour) > 0.005 for colour in (GIVEN, TRUE, MADE)]
        assert borders == ([True, False, False] if f < 2 else [True, True, True])


def test_comparison_keeps_pixels_and_order() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = (rng.integers(0, 256, (1, 3, 96, 96, 3), dtype=np.uint8) for _ in range(2))
    video = comparison(truth, prediction, 1, columns=1)

    def find(picture: np.ndarray, frame: np.ndarray) -> int:
        """Column where the frame stands in the picture."""
        windows = np.lib.stride_tricks.sliding_window_view(picture, (96, 96, 3))[:, :, 0]
        corners = np.argwhere((windows[..., 0, 0, :] == frame[0, 0]).all(-1))
        (place,) = [corner for corner in corners if (windows[tuple(corner)] == frame).all()]
        return int(place[1])

    last = video[-1]
    assert find(last, truth[0, 0]) < find(last, truth[0, 2]) < find(last, prediction[0, 2])


def test_comparison_without_context() -> None:
    truth, prediction = clips()
    video = comparison(truth, prediction, 0)
    assert share(video[0], tuple(prediction[0, 0, 0, 0])) > 0
    assert share(video[0], MADE) > 0


# -- strip


def test_strip() -> None:
    truth, prediction = clips(count=2, frames=4, side=16)
    picture = np.asarray(strip(truth, prediction, context_frames=1))
    cell = picture.shape[1] // 4
    assert picture.shape[1] == 4 * cell
    assert cell >= 48
    positions = {}
    for clip in range(2):
        for f in range(4):
            for name, frame in (("truth", truth[clip, f]), ("made", prediction[clip, f])):
                where = np.argwhere((picture == frame[0, 0]).all(-1))
                assert len(where) == 48 * 48
                (top, left), (bottom, right) = where.min(0), where.max(0)
                assert (bottom - top, right - left) == (47, 47)
                assert left // cell == right // cell == f
                positions[clip, name] = int(top)
    assert sorted(positions, key=lambda key: positions[key]) == [(0, "truth"), (0, "made"), (1, "truth"), (1, "made")]
    assert share(picture[:, :cell], MADE) == share(picture[:, :cell], TRUE) == share(picture[:, cell:], GIVEN) == 0
    assert min(share(picture[:, :cell], GIVEN), share(picture[:, cell:], MADE), share(picture[:, cell:], TRUE)) > 0.01


# -- files


def test_gif(tmp_path: Path) -> None:
    truth, prediction = clips()
    video = comparison(truth, prediction, 2)
    path = tmp_path / "samples.gif"
    save_gif(video, path, fps=10)
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert (image.n_frames, image.size) == (5, (video.shape[2], video.shape[1]))
        assert image.info["loop"] == 0
        shown = [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]
    assert [duration for _, duration in shown] == [100, 100, 100, 100, 1000]
    for (frame, _), wanted in zip(shown, video, strict=True):
        assert np.abs(frame.astype(int) - wanted).mean() < 4
    assert list(tmp_path.iterdir()) == [path]


def test_mp4(tmp_path: Path) -> None:
    truth, prediction = clips()
    video = comparison(truth, prediction, 2)
    path = tmp_path / "samples.mp4"
    save_mp4(video, path, fps=10)
    read = read_clip(path, 0, None, size=None)
    assert read.shape == video.shape
    assert np.abs(read.astype(int) - video).mean() < 4
    with open_video(path) as reader:
        assert (reader.info.fps, reader.info.codec) == (10, "h264")
    assert list(tmp_path.iterdir()) == [path]


def test_image_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    picture = strip(*clips(), 2)
    save_image(picture, path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture))
    assert list(tmp_path.iterdir()) == [path]


# -- curves


def lines(gains: bool) -> list[dict[str, Any]]:
    """Lines as a run writes them: losses often, watched numbers now and then."""
    found: list[dict[str, Any]] = [{"step": step, "loss": 1 / step, "lr": 1e-3} for step in range(10, 310, 10)]
    if gains:
        for step in (100, 200, 300):
            found.append(
                {"step": step, "context_gain/t=0.5": 0.1, "context_gain/t=1.0": 0.2, "own_context_error/t=1.0": 1}
            )
        found.append({"step": 310, "context_gain/t=0.5": 0.3})
    return found


def test_plot(tmp_path: Path) -> None:
    sizes = {}
    for gains in (False, True):
        path = tmp_path / f"{gains}.png"
        plot_training(lines(gains), path)
        with Image.open(path) as image:
            assert image.format == "PNG"
            sizes[gains] = image.size
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    assert sizes[True][0] > 1.5 * sizes[False][0]  # a second picture beside the first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["False.png", "True.png"]


def test_plot_of_one_line(tmp_path: Path) -> None:
    plot_training([{"step": 1, "loss": 0.5}], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 1000
