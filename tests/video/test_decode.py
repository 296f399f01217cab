"""Decoding: the frames asked for and no others, the right cut, and one-line errors for what is not a video."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rinvid.data import VideoError, read_clip
from rinvid.data.decode import choose_backend, frame_offsets, frame_span, frames_within, open_video
from tests.video.broken import rotate
from tests.video.make import numbered, numbers, write_sound, write_video

ROOT = Path(__file__).parents[2]
COUNT = 60
SMOOTH = {"g": "12", "bf": "3", "crf": "10"}  # a key frame every 12 frames and B-frames between
OPEN_GOP = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-adapt=0:scenecut=0"
VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"}
# Irregular distances, in milliseconds.
TIMES = np.random.default_rng(0).choice([20, 33, 40, 90, 200], COUNT).cumsum().tolist()

FILES: dict[str, dict[str, Any]] = {
    "plain.mp4": {"options": SMOOTH},
    "plain.mkv": {"options": SMOOTH},
    "plain.mov": {"options": SMOOTH},
    "faststart.mp4": {"options": SMOOTH, "container_options": {"movflags": "+faststart"}},
    "fragments.mp4": {"options": SMOOTH, "container_options": {"movflags": "+frag_keyframe+empty_moov"}},
    "open_gop.mp4": {"options": {"crf": "10", "x264-params": OPEN_GOP}},
    "open_gop.mkv": {"options": {"crf": "10", "x264-params": OPEN_GOP}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP9},
    "hidden_frames.webm": {
        "codec": "libvpx",
        "options": {"g": "24", "b": "2M", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"},
    },
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "b": "4M"}},
    "mpeg4_b.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2", "b": "4M"}},
    "h264.avi": {"options": SMOOTH},
    "mpeg1.mpg": {"codec": "mpeg1video", "fps": 25, "options": {"g": "12", "bf": "2", "b": "4M"}},
    "mpeg2.mpeg": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2", "b": "4M"}},
    "variable_rate.mp4": {"options": SMOOTH, "times": TIMES},
    "variable_rate.mkv": {"options": SMOOTH, "times": TIMES},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An H.264 file with B-frames whose frames show their numbers."""
    return write_video(tmp_path_factory.mktemp("video") / "plain.mp4", numbered(COUNT), **FILES["plain.mp4"])


@pytest.mark.parametrize("name", FILES)
def test_exactly_the_frames_asked_for(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, numbered(COUNT), **FILES[name])
    rng = np.random.default_rng(1)
    wrong = []
    assert open_video(path).info.frames == COUNT
    for start in range(COUNT):
        assert numbers(read_clip(path, start, 1)) == [start]
        count, stride = int(rng.integers(1, 9)), int(rng.integers(1, 6))
        wanted = list(range(start, COUNT, stride))[:count]
        clip = read_clip(path, start, len(wanted), stride, size=64)
        if numbers(clip) != wanted:
            wrong.append((wanted, numbers(clip)))
    assert not wrong


def test_all_frames_that_follow(plain: Path) -> None:
    assert numbers(read_clip(plain, 50, None)) == list(range(50, COUNT))
    assert numbers(read_clip(plain, 1, None, stride=7)) == list(range(1, COUNT, 7))


def test_info(plain: Path) -> None:
    with open_video(plain) as reader:
        assert (reader.info.frames, reader.info.fps, reader.info.codec) == (COUNT, 16.0, "h264")
        assert (reader.info.width, reader.info.height) == (64, 64)


@pytest.mark.parametrize("size", [8, 64, 100])
def test_array_holds_its_own_frames_only(plain: Path, size: int) -> None:
    clip = read_clip(plain, 3, 5, 2, size)
    assert (clip.shape, clip.dtype) == ((5, size, size, 3), np.uint8)
    assert clip.base is None
    assert clip.flags["C_CONTIGUOUS"]
    assert clip.nbytes == clip.size


def bands(height: int, width: int) -> np.ndarray:
    """A red, green and blue third along the longer side, as 4 equal frames."""
    picture = np.zeros((max(height, width), min(height, width), 3), np.uint8)
    for colour, part in enumerate(np.array_split(np.arange(len(picture)), 3)):
        picture[part, :, colour] = 255
    picture = picture if height > width else picture.transpose(1, 0, 2)
    return np.ascontiguousarray(np.broadcast_to(picture, (4, *picture.shape)))


def write_exact(path: Path, frames: np.ndarray) -> Path:
    """Without loss and without shared colour samples, so that pixels can be compared."""
    return write_video(path, frames, "libx264rgb", options={"crf": "0"}, pix_fmt="rgb24")


def test_size_none_keeps_the_frames(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 48, 80, 3), dtype=np.uint8)
    path = write_exact(tmp_path / "exact.mp4", frames)
    np.testing.assert_array_equal(read_clip(path, 0, 4, size=None), frames)
    np.testing.assert_array_equal(read_clip(path, 0, 4, size=48), frames[:, :, 16:64])


@pytest.mark.parametrize("size", [16, 48, 96])
@pytest.mark.parametrize("shape", [(48, 144), (144, 48)])
def test_centre_square(tmp_path: Path, shape: tuple[int, int], size: int) -> None:
    clip = read_clip(write_exact(tmp_path / "bands.mp4", bands(*shape)), 0, 4, size=size)
    assert clip.shape == (4, size, size, 3)
    # The middle third is the centre square: green all over. Enlarging may blend its rim with the pixels beside it.
    rim = 1 if size > 48 else 0
    inner = clip[:, rim : size - rim, rim : size - rim]
    assert (inner == np.array([0, 255, 0], np.uint8)).all()
    assert (clip.argmax(-1) == 1).all()


@pytest.mark.parametrize("size", [24, 72, 144])
def test_no_part_of_the_shortest_side_is_cut(tmp_path: Path, size: int) -> None:
    frames = bands(72, 144)[:, :, 36:108]  # (4, 72, 72, 3): 12 red columns, 48 green, 12 blue
    side = read_clip(write_exact(tmp_path / "bands.mp4", np.ascontiguousarray(frames)), 0, 1, size=size)[0]
    red, green, blue = (int(side[size // 2, x].argmax()) for x in (0, size // 2, size - 1))
    assert (red, green, blue) == (0, 1, 2)
    assert abs((side.argmax(-1) == 0).mean() - 1 / 6) < 0.02
    assert abs((side.argmax(-1) == 2).mean() - 1 / 6) < 0.02


def test_shrinking_averages_over_areas(tmp_path: Path) -> None:
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    frames[:, ::2, ::2] = 200  # a quarter of the pixels
    clip = read_clip(write_exact(tmp_path / "dots.mp4", frames), 0, 2, size=16)
    assert np.abs(clip.astype(int) - 50).max() <= 1


# -- errors


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def broken_files(folder: Path) -> dict[str, Path]:
    whole = write_video(folder / "whole.mp4", numbered(COUNT), options=SMOOTH).read_bytes()
    contents = {"text": b"not a video\n" * 200, "empty": b"", "truncated": whole[: len(whole) // 2]}
    paths = {"sound": write_sound(folder / "sound.mp4"), "frameless": write_video(folder / "none.avi", numbered(0))}
    for name, content in contents.items():
        paths[name] = folder / f"{name}.mp4"
        paths[name].write_bytes(content)
    return paths


def open_descriptors(path: Path) -> int:
    """How often this process has the file open."""
    return sum(link.exists() and link.samefile(path) for link in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "sound", "frameless"])
def test_not_a_video(tmp_path: Path, kind: str) -> None:
    path = broken_files(tmp_path)[kind]
    with pytest.raises(VideoError) as error:
        read_clip(path)
    assert str(path) in message(error)
    assert isinstance(error.value, ValueError)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4: no such video file"):
        read_clip(tmp_path / "nowhere.mp4")
    with pytest.raises(FileNotFoundError, match="no such video file"):
        read_clip(tmp_path)


def test_broken_in_the_middle(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", numbered(COUNT), **FILES["faststart.mp4"]).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 9 // 10])
    assert numbers(read_clip(path, 0, 16)) == list(range(16))
    with pytest.raises(VideoError, match=r"cut\.mp4: broken") as error:
        read_clip(path, 0, None)
    message(error)
    assert open_descriptors(path) == 0


def test_too_few_frames(plain: Path) -> None:
    assert len(read_clip(plain, COUNT - 16, 16)) == 16
    with pytest.raises(VideoError, match=rf"plain\.mp4: has {COUNT} frames, too few to read up to frame {COUNT}"):
        read_clip(plain, COUNT - 15, 16)
    with pytest.raises(VideoError, match=f"frame {15 * 5}"):
        read_clip(plain, 0, 16, 5)
    with pytest.raises(VideoError, match=f"has {COUNT} frames"):
        read_clip(plain, COUNT, None)


@pytest.mark.parametrize(
    "arguments", [{"start": -1}, {"num_frames": 0}, {"stride": 0}, {"size": 0}, {"stride": -1}, {"num_frames": -3}]
)
def test_arguments_out_of_range(plain: Path, arguments: dict[str, int]) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        read_clip(plain, **arguments)


def test_unknown_backend(plain: Path) -> None:
    with pytest.raises(ValueError, match="unknown video backend 'opencv'; known: auto, pyav, decord"):
        read_clip(plain, backend="opencv")  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux to see open files")
def test_the_file_is_closed(plain: Path, tmp_path: Path) -> None:
    with open_video(plain):
        assert open_descriptors(plain) == 1
    read_clip(plain, 5, 3)
    assert open_descriptors(plain) == 0
    with pytest.raises(VideoError):
        read_clip(plain, 0, COUNT + 1)
    assert open_descriptors(plain) == 0
    for path in broken_files(tmp_path).values():
        with pytest.raises(VideoError):
            read_clip(path)
        assert open_descriptors(path) == 0


# -- decoders


def run_python(code: str, *arguments: object) -> str:
    """Run code in a process of its own; its standard output."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_naming_the_reader_loads_no_decoder() -> None:
    code = "import sys, rinvid.data; print(sorted({'av', 'decord', 'torch', 'matplotlib'} & set(sys.modules)))"
    assert run_python(code).strip() == "[]"


WITH_DECORD = """
import sys
from pathlib import Path
import numpy as np
from rinvid.data import VideoError, read_clip
from rinvid.data.encode import save_h264

path, text, out = map(Path, sys.argv[1:])
clips = {
    "clip": read_clip(path, 17, 9, 3, 64, backend="decord"),
    "small": read_clip(path, 17, 9, 3, 24),
    "kept": read_clip(path, 58, 2, 1, None, backend="decord"),
    "auto": read_clip(path, 0, 5),
}
assert "av" not in sys.modules
try:
    read_clip(path, backend="pyav")
except ValueError as error:
    assert "'pyav' cannot be loaded beside 'decord'" in str(error), error
else:
    raise AssertionError("the second decoder was loaded")
for call in (lambda: read_clip(text), lambda: read_clip(path, 0, 61)):
    try:
        call()
    except VideoError as error:
        assert "\\n" not in str(error) and ".mp4" in str(error), error
    else:
        raise AssertionError("no VideoError")
save_h264(clips["clip"], out / "made.mp4", 8, 0)
clips["made"] = read_clip(out / "made.mp4", 0, 9, size=None)
assert "av" not in sys.modules
np.savez(out / "clips.npz", **clips)
"""


def test_decord_gives_the_same_frames(plain: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video\n" * 100)
    run_python(WITH_DECORD, plain, text, tmp_path)
    with np.load(tmp_path / "clips.npz") as clips:
        assert numbers(clips["clip"]) == list(range(17, 42, 3))
        for name, wanted in (
            ("clip", read_clip(plain, 17, 9, 3, 64)),
            ("small", read_clip(plain, 17, 9, 3, 24)),
            ("kept", read_clip(plain, 58, 2, 1, None)),
            ("auto", read_clip(plain, 0, 5)),
            ("made", read_clip(plain, 17, 9, 3, 64)),
        ):
            assert clips[name].shape == wanted.shape
            assert np.abs(clips[name].astype(int) - wanted).mean() <= 2, name


EVERY_START = """
import sys
from rinvid.data import read_clip
from tests.video.make import numbers

for path in sys.argv[2:]:
    for start in range(0, int(sys.argv[1]) - 5, 3):
        shown = numbers(read_clip(path, start, 3, 2, backend="decord"))
        assert shown == [start, start + 2, start + 4], (path, start, shown)
"""


def test_decord_gives_the_frames_asked_for(tmp_path: Path) -> None:
    run_python(EVERY_START, COUNT, *(write_video(tmp_path / name, numbered(COUNT), **FILES[name]) for name in FILES))


@pytest.mark.parametrize("width", [32, 48])
def test_decord_reads_narrow_frames(width: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "narrow.mp4", numbered(12, width), options={"crf": "5"})
    run_python(EVERY_START, 12, path)


def test_one_decoder_a_process(plain: Path) -> None:
    read_clip(plain, 0, 1)  # loads PyAV
    assert choose_backend("auto") == "pyav"
    with pytest.raises(ValueError, match="'decord' cannot be loaded beside 'pyav': each brings its own FFmpeg"):
        read_clip(plain, backend="decord")
    assert "decord" not in sys.modules


# -- which frames, which part of them


@pytest.mark.parametrize("fps", [16.0, 8.0, 5.0, 16.5])
def test_frames_at_a_rate(plain: Path, fps: float) -> None:
    expected = [3 + int(number * max(16 / fps, 1) + 0.5) for number in range(6)]
    assert numbers(read_clip(plain, 3, 6, size=None, fps=fps)) == expected
    rest = numbers(read_clip(plain, 3, None, size=None, fps=fps))
    assert rest[:6] == expected
    assert rest[-1] + max(16 / fps, 1) > COUNT - 1


def test_a_rate_that_the_file_has_not(plain: Path) -> None:
    with pytest.raises(VideoError, match="has 16 frames a second, fewer than the 20 asked for"):
        read_clip(plain, 0, 4, fps=20)


@pytest.mark.parametrize("wrong", [{"fps": 0.0}, {"fps": 8.0, "stride": 2}, {"resize": "squeeze"}, {"crop_at": 1.5}])
def test_arguments_that_do_not_go_together(plain: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        read_clip(plain, 0, 4, **wrong)


def test_frames_within_is_the_inverse_of_frame_span() -> None:
    for step in (1.0, 1.2, 2.0, 2.5, 7.3):
        for count in range(1, 40):
            span = int(frame_span(count, step))
            assert frame_offsets(count, step)[-1] + 1 == span
            assert frames_within(span, step) == count
            assert frames_within(span - 1, step) == count - 1
    assert frame_span(4, np.array([1.0, 2.5])).tolist() == [4, 9]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of 32x96 in three squares: dark, grey, light."""
    frames = np.repeat(np.array([20, 120, 220], np.uint8), 32)[None, None, :, None].repeat(32, 1).repeat(16, 0)
    return write_video(tmp_path_factory.mktemp("wide") / "wide.mp4", frames.repeat(3, 3), options={"crf": "1"})


@pytest.mark.parametrize(("crop_at", "value"), [(0.0, 20), (0.5, 120), (1.0, 220)])
def test_where_the_square_lies(wide: Path, crop_at: float, value: int) -> None:
    clip = read_clip(wide, 0, 2, size=16, crop_at=crop_at).astype(int)
    assert np.abs(clip[:, :, 2:-2] - value).max() < 12


def test_stretching_keeps_the_whole_frame(wide: Path) -> None:
    clip = read_clip(wide, 0, 2, size=24, resize="stretch").astype(int)
    assert clip.shape == (2, 24, 24, 3)
    for column, value in ((3, 20), (12, 120), (20, 220)):
        assert np.abs(clip[:, :, column] - value).max() < 12


ROTATED = """
import sys, numpy as np
from rinvid.data import read_clip
clip = read_clip(sys.argv[1], 0, 2, size=None, backend=sys.argv[2])[0, ..., 0].astype(int)
third = [part.mean() for part in np.array_split(clip, 3, axis=int(clip.shape[0] < clip.shape[1]))]
print(*clip.shape, *("dark" if v < 70 else "light" if v > 170 else "grey" for v in third), sep=" ")
"""


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize(
    ("degrees", "expected"),
    # Turned clockwise by 90 degrees, what is on the left comes to the top.
    [(90, "96 32 dark grey light"), (180, "32 96 light grey dark"), (270, "96 32 light grey dark")],
)
def test_turned_videos_are_read_upright(wide: Path, tmp_path: Path, backend: str, degrees: int, expected: str) -> None:
    path = tmp_path / "turned.mp4"
    path.write_bytes(wide.read_bytes())
    rotate(path, degrees)
    command = [sys.executable, "-c", ROTATED, str(path), backend]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == expected


# -- which decoder


def test_auto_says_once_what_it_has_chosen(plain: Path) -> None:
    code = f"from rinvid.data import read_clip; [read_clip({str(plain)!r}) for _ in range(2)]"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("", "videos are read with pyav\n")


def test_decord_is_kept_out_of_processes_that_use_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av", "decord"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="'decord' cannot be loaded into a process that uses CUDA"):
        choose_backend("decord")


def test_every_container_is_opened_in_a_with_statement() -> None:
    loose = []
    for path in (ROOT / "rinvid").rglob("*.py"):
        tree = ast.parse(path.read_text())
        kept = {item.context_expr for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.items}
        loose += [
            path.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "av.open" and node not in kept
        ]
    assert loose == ["readers.py"]  # PyAVReader's own, which its close() closes
