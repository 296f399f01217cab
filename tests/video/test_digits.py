"""Moving digits: the same real files every time, honestly split, with whole digits that move and bounce."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from rinvid.data import read_clip
from rinvid.data.digits import CANVAS, CLASSES, DIGIT, FPS, PAPER, VAL_SHARE, digits_root, render, write_digits
from rinvid.data.home import whole_folder
from tests.video.make import Frames

NAME = re.compile(r"digit(\d{4})_(\d{6})_(\d{6})\.mp4")


@pytest.fixture(scope="module")
def source() -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits and their labels."""
    with np.load(str(files("rinvid.data").joinpath("digits.npz"))) as data:
        return data["images"], data["labels"]


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve digits of 20 frames."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, limit=12, frames=20)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_layout(dozen: Path, source: tuple[np.ndarray, np.ndarray]) -> None:
    labels = source[1]
    seen = {}
    for path in contents(dozen):
        split, name_of_class, file = path.split("/")
        number, start, end = map(int, NAME.fullmatch(file).groups())  # type: ignore[union-attr]
        assert (start, end) == (0, 20 // FPS)
        assert name_of_class == CLASSES[labels[number]]
        seen[number] = split
    assert seen == {number: "val" if number in (0, 6) else "train" for number in range(12)}


def test_frames(dozen: Path) -> None:
    for path in contents(dozen):
        clip = read_clip(dozen / path, 0, None, size=None)
        assert clip.shape == (20, CANVAS, CANVAS, 3)


def assert_same_videos(folder: Path, other: Path) -> None:
    assert contents(folder).keys() == contents(other).keys()
    for path in contents(folder):
        one, two = (read_clip(place / path, 0, None, size=None).astype(int) for place in (folder, other))
        assert one.shape == two.shape
        assert np.abs(one - two).max() <= 12, path


def test_the_same_videos_again(dozen: Path, tmp_path: Path) -> None:
    write_digits(tmp_path, limit=12, frames=20)
    assert_same_videos(tmp_path, dozen)


def test_the_same_bytes_again(tmp_path: Path) -> None:
    kept = []
    for turn in range(30):
        write_digits(tmp_path / "digits", limit=7, frames=20)
        made = contents(tmp_path / "digits")
        assert turn == 0 or made == kept[0], turn
        kept.append(made)  # memory in use, so that the encoder gets other memory next time


def test_held_out_digits_are_not_trained_on(source: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = source
    assert len(images) == len(labels) == 1797
    held_out = {image.tobytes() for image in images[::VAL_SHARE]}
    trained = {image.tobytes() for number, image in enumerate(images) if number % VAL_SHARE}
    assert len(held_out) == len(images[::VAL_SHARE])
    assert not held_out & trained
    assert set(labels[::VAL_SHARE]) == set(range(10))


def corner(frame: Frames) -> tuple[int, int]:
    """Where the ink begins."""
    inked = frame > PAPER
    return int(inked.any(1).argmax()), int(inked.any(0).argmax())


def test_the_digit_stays_whole_while_it_moves(dozen: Path) -> None:
    for path in contents(dozen):
        clip = read_clip(dozen / path, 0, None, size=None)[..., 0].astype(float)
        ink = np.clip(clip - PAPER - 8, 0, None).sum((1, 2))
        assert ink.min() > 0.95 * ink.max(), path
        moved = np.abs(np.diff(clip, axis=0)).mean((1, 2)) > 0.3
        # At a border the way there and the way back may round to one place, for one step.
        assert (moved[1:] | moved[:-1]).all(), path


def test_moves_in_straight_lines_and_bounces(source: tuple[np.ndarray, np.ndarray]) -> None:
    images = source[0]
    bounces = 0
    for number in range(20):
        clip = render(images[number], np.random.default_rng(number), 64)
        assert (clip.shape, clip.dtype) == ((64, CANVAS, CANVAS), np.uint8)
        still = clip[0][slice(corner(clip[0])[0], None), slice(corner(clip[0])[1], None)]
        places = np.array([corner(frame) for frame in clip])
        for frame, (y, x) in zip(clip, places, strict=True):
            shown = frame[y:, x:]
            height, width = min(len(shown), len(still), DIGIT), min(shown.shape[1], still.shape[1], DIGIT)
            np.testing.assert_array_equal(shown[:height, :width], still[:height, :width])
            assert (frame > PAPER).sum() == (clip[0] > PAPER).sum()  # nothing cut off by a border
        steps = np.diff(places, axis=0)
        assert np.abs(steps).max() <= 4  # the speed is at most 3 pixels a frame, rounded to whole ones
        for axis in range(2):
            signs = np.sign(steps[:, axis])
            turns = np.count_nonzero(np.diff(signs[signs != 0]))
            # A turn needs a way of CANVAS - DIGIT pixels, so that there are few of them: no trembling.
            assert turns <= 1 + 64 * 3 / (CANVAS - DIGIT)
            length = np.abs(steps[:, axis])
            assert np.count_nonzero(np.abs(length - np.median(length)) > 1) <= turns  # one speed between the turns
            bounces += turns
    assert bounces > 20


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block after that time, as Ctrl-C would."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_interruption_leaves_no_half_made_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path / "home"))
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.4):
        digits_root(show_progress=False)
    assert list((tmp_path / "home").iterdir()) == []


def test_second_call_after_an_interruption(dozen: Path, tmp_path: Path) -> None:
    def make(stop: bool) -> None:
        with whole_folder(tmp_path / "digits") as folder:
            write_digits(folder, limit=4 if stop else 12, frames=20)
            if stop:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(stop=True)
    assert list(tmp_path.iterdir()) == []
    make(stop=False)
    assert_same_videos(tmp_path / "digits", dozen)


@pytest.mark.slow
def test_the_whole_set_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path))
    root = digits_root(show_progress=False)
    assert root.parent == tmp_path
    videos = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    assert len(videos) == 1797
    assert sum(path.parts[-3] == "val" for path in videos) == 300
    with interrupted_after(1.0):  # long enough to find the folder, not to make it
        assert digits_root(show_progress=False) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")} == videos
    assert list(tmp_path.iterdir()) == [root]


def test_a_part_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINVID_HOME", str(tmp_path))
    root = digits_root(limit=7, show_progress=False)
    assert root.name.endswith("-first-7")
    assert len(list(root.rglob("*.mp4"))) == 7
    assert {path.name for path in root.iterdir()} == {"train", "val"}
