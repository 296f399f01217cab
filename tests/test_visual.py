"""Pictures of predictions and of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from rinvid.data import read_clip
from rinvid.data.decode import open_video
from rinvid.visual import (
    CELL,
    GIVEN,
    MADE,
    TRUE,
    comparison,
    export_to_gif,
    export_to_video,
    plot_training,
    save_gif,
    save_image,
    save_mp4,
    strip,
)

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


# -- clips as a pipeline gives them

COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50), (90, 90, 90)], np.uint8
)
FORMS: dict[str, Callable[[Clips], Any]] = {
    "uint8": lambda clip: clip,
    "np": lambda clip: clip / np.float32(255),
    "np in double precision": lambda clip: clip / 255,
    "pt": lambda clip: torch.from_numpy(clip / np.float32(255)).movedim(-1, 0),
    "pt with a gradient": lambda clip: torch.from_numpy(clip / np.float32(255)).movedim(-1, 0).requires_grad_(),
    "pil": lambda clip: [Image.fromarray(frame) for frame in clip],
    "pil in a tuple": lambda clip: tuple(Image.fromarray(frame) for frame in clip),
}
each_form = pytest.mark.parametrize("form", FORMS)


def plain(height: int = 32, width: int = 32) -> Clips:
    """A clip of seven frames, each of one colour; a grey bar on its left says which way is up and left."""
    clip = np.broadcast_to(COLOURS[:, None, None], (len(COLOURS), height, width, 3)).copy()
    clip[:, : height // 2, : width // 4] = 128
    return clip


def gif_frames(path: Path) -> Clips:
    with Image.open(path) as image:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])


@each_form
def test_a_clip_as_video(form: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    assert export_to_video(FORMS[form](plain()), path) == path
    read = read_clip(path, 0, None, size=None)
    assert read.shape == (7, 32, 32, 3)
    error = np.abs(read.astype(int) - plain())
    # Colours are kept at half the resolution and in fewer levels; away from edges they are those that were given.
    assert np.delete(error, range(6, 10), axis=2)[:, 20:].max() <= 6
    assert error[:, :14, :6].max() <= 6
    assert list(tmp_path.iterdir()) == [path]


@each_form
def test_a_clip_as_gif(form: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    assert export_to_gif(FORMS[form](plain()), path) == path
    np.testing.assert_array_equal(gif_frames(path), plain())  # few colours: all are in the palette
    assert list(tmp_path.iterdir()) == [path]


def test_the_rate_of_a_clip(tmp_path: Path) -> None:
    for fps in (5, 20):
        with open_video(export_to_video(plain(), tmp_path / "clip.mp4", fps=fps)) as reader:
            assert (reader.info.fps, reader.info.frames, reader.info.codec) == (fps, 7, "h264")
        with Image.open(export_to_gif(plain(), tmp_path / "clip.gif", fps=fps)) as image:
            assert image.info["duration"] == 1000 / fps


@pytest.mark.parametrize("export", [export_to_video, export_to_gif])
def test_the_path_may_be_text_and_is_replaced(export: Any, tmp_path: Path) -> None:
    path = tmp_path / ("clip.mp4" if export is export_to_video else "clip.gif")
    path.write_text("old")
    assert export(plain(), str(path)) == path
    assert path.stat().st_size > 100
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("height", "width"), [(33, 32), (32, 33), (31, 47), (1, 1)])
def test_odd_sides_are_filled_up_in_a_video_and_kept_in_a_gif(height: int, width: int, tmp_path: Path) -> None:
    clip = plain(height, width)
    read = read_clip(export_to_video(clip, tmp_path / "clip.mp4"), 0, None, size=None)
    assert read.shape == (7, height + height % 2, width + width % 2, 3)
    shown = read[:, :height, :width].astype(int)
    assert np.abs(shown - clip).mean() < 6
    if height % 2 and height > 1:  # the row that is added goes on in the colour of the last one
        assert np.abs(read[:, -1].astype(int) - read[:, -2]).max() <= 6
    np.testing.assert_array_equal(gif_frames(export_to_gif(clip, tmp_path / "clip.gif")), clip)


@pytest.mark.parametrize("form", ["uint8", "np", "pt", "pil"])
def test_one_channel_is_grey(form: str, tmp_path: Path) -> None:
    levels = np.array([0, 60, 128, 200, 255], np.uint8)
    grey = np.broadcast_to(levels[:, None, None, None], (5, 16, 16, 1))
    given = [Image.fromarray(frame[..., 0]) for frame in grey] if form == "pil" else FORMS[form](grey.copy())
    expected = grey.repeat(3, -1)
    read = read_clip(export_to_video(given, tmp_path / "clip.mp4"), 0, None, size=None)
    assert np.abs(read.astype(int) - expected).max() <= 3
    np.testing.assert_array_equal(gif_frames(export_to_gif(given, tmp_path / "clip.gif")), expected)


def test_levels_are_rounded_and_cut_off_at_the_ends(tmp_path: Path) -> None:
    values = np.array([-0.5, 0.0, 59.6 / 255, 60.4 / 255, 1.0, 1.5])
    clip = np.broadcast_to(values[:, None, None, None], (6, 8, 8, 3))
    levels = gif_frames(export_to_gif(clip, tmp_path / "clip.gif"))[:, 0, 0, 0]
    # (A GIF keeps frames that are alike once.)
    assert [level for i, level in enumerate(levels) if i == 0 or level != levels[i - 1]] == [0, 60, 255]


@pytest.mark.parametrize("export", [export_to_video, export_to_gif])
@pytest.mark.parametrize(
    "given",
    [
        np.zeros((2, 5, 16, 16, 3), np.uint8),  # clips, not one
        np.zeros((16, 16, 3), np.uint8),  # a picture
        np.zeros((5, 16, 16, 4), np.uint8),  # with transparency
        np.zeros((5, 3, 16, 16), np.float32),  # an array with channels first
        torch.zeros(5, 16, 16, 3),  # a tensor with channels last
        torch.zeros(1, 3, 5, 16, 16),
        [],
        [np.zeros((16, 16, 3), np.uint8)],
        [Image.new("RGB", (16, 16)), Image.new("RGB", (8, 8))],
        "clip.mp4",
        None,
    ],
    ids=lambda given: str(getattr(given, "shape", type(given).__name__)),
)
def test_what_is_no_clip_is_refused_and_leaves_nothing(export: Any, given: Any, tmp_path: Path) -> None:
    message = "same shape" if isinstance(given, list) and len(given) == 2 else "frames must be one clip"
    with pytest.raises(ValueError, match=message):
        export(given, tmp_path / "clip.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "given",
    [
        torch.from_numpy(plain()).movedim(-1, 0),
        plain().astype(np.int64),
        np.full((2, 8, 8, 3), np.nan, np.float32),
    ],
    ids=["uint8 tensor", "whole numbers", "nan"],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_numbers_that_mean_nothing_are_refused(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        export_to_gif(given, tmp_path / "clip.gif")


@pytest.mark.parametrize("export", [export_to_video, export_to_gif])
def test_a_clip_without_frames_is_refused(export: Any, tmp_path: Path) -> None:
    suffix = "mp4" if export is export_to_video else "gif"
    with pytest.raises(ValueError, match="frames must be one clip"):
        export(np.zeros((0, 16, 16, 3), np.uint8), tmp_path / f"clip.{suffix}")


@pytest.mark.parametrize(("export", "name"), [(export_to_video, "clip.txt"), (export_to_gif, "clip.mp4")])
def test_a_name_that_is_no_video_leaves_nothing(export: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output format|file extension"):
        export(plain(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


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
