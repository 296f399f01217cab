"""Video files that are broken in a known way, made from small good ones; the ending of the path picks the container."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tests.video.make import numbered, write_sound, write_video

COUNT = 20
CLAIMED = 31  # frames that over-reporting headers claim
ANY = (".mp4", ".mov", ".mkv", ".webm", ".avi")
MP4 = (".mp4", ".mov")
CODECS = {".avi": "mpeg4", ".webm": "libvpx"}
OPTIONS = {
    "libx264": {"g": "12", "bf": "0", "crf": "10"},
    "mpeg4": {"g": "12", "b": "2M"},
    "libvpx": {"g": "12", "b": "2M", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"},
}
PARENTS = frozenset({"moov", "trak", "edts", "mdia", "minf", "stbl", "mvex", "moof", "traf"})

Maker = Callable[[Path], Path]


# -- good files


@cache
def good_bytes(suffix: str, faststart: bool = False, count: int = COUNT) -> bytes:
    """A good file of ``count`` numbered frames; encoded once, since many broken files start from it."""
    frames = numbered(count)
    # Plain squares take some 10 bytes a frame: too few to cut or to overwrite some frames and not the others.
    grain = np.random.default_rng(0).integers(-15, 16, (*frames.shape[:3], 1))
    frames = (frames + grain).astype(np.uint8)
    codec = CODECS.get(suffix, "libx264")
    flags = {"movflags": "+faststart"} if faststart else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"good{suffix}"
        return write_video(path, frames, codec, 16, OPTIONS[codec], container_options=flags).read_bytes()


@cache
def sound_bytes(suffix: str) -> bytes:
    """A good file of sound only."""
    with tempfile.TemporaryDirectory() as folder:
        return write_sound(Path(folder) / f"sound{suffix}").read_bytes()


def good(path: Path) -> Path:
    """A file with nothing wrong: .mp4, .mov, .mkv, .webm or .avi."""
    return _write(path, good_bytes(path.suffix))


def rotate(path: Path, degrees: int) -> Path:
    """Let players show an mp4 turned ``degrees`` clockwise (0, 90, 180 or 270), as phones do; made if there is none."""
    data = bytearray(path.read_bytes() if path.exists() else good_bytes(".mp4"))
    for atom in named(data, "tkhd"):
        matrix = atom.body + (52 if data[atom.body] else 40)
        width, height = struct.unpack_from(">II", data, matrix + 36)
        # Turned about the origin, the picture leaves its quadrant; the offsets bring it back.
        turns = {
            0: (1, 0, 0, 1, 0, 0),
            90: (0, 1, -1, 0, height, 0),
            180: (-1, 0, 0, -1, width, height),
            270: (0, -1, 1, 0, 0, width),
        }
        a, b, c, d, x, y = turns[degrees]
        one = 1 << 16
        struct.pack_into(">9i", data, matrix, a * one, b * one, 0, c * one, d * one, 0, x, y, 1 << 30)
    return _write(path, bytes(data))


# -- the parts of a file


@dataclass(frozen=True)
class Atom:
    """A box of an mp4 file: where it starts, where its content starts, and where it ends."""

    name: str
    start: int
    body: int
    end: int


def atoms(data: bytes | bytearray, start: int = 0, end: int | None = None) -> Iterator[Atom]:
    """The boxes of an mp4 file, each before those within it."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        size = size or end - start  # 0: up to the end
        assert size >= head, "this is not an mp4 file"
        atom = Atom(name.decode("latin-1"), start, start + head, min(start + size, end))
        yield atom
        if atom.name in PARENTS:
            yield from atoms(data, atom.body, atom.end)
        start += size


def named(data: bytes | bytearray, *names: str) -> list[Atom]:
    """The boxes of these names; fails if there are none."""
    found = [atom for atom in atoms(data) if atom.name in names]
    assert found, f"no box {names}"
    return found


def chunks(data: bytes | bytearray, start: int = 0, end: int | None = None) -> Iterator[Atom]:
    """The chunks of an avi file, each before those within it; lists by their type."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, start)
        listed = name in (b"RIFF", b"LIST")
        body = start + (12 if listed else 8)
        name = data[body - 4 : body] if listed else name
        chunk = Atom(name.decode("latin-1"), start, body, min(start + 8 + size, end))
        yield chunk
        if listed and chunk.name != "movi":
            yield from chunks(data, chunk.body, chunk.end)
        start += 8 + size + size % 2


def elements(data: bytes | bytearray, start: int = 0, end: int | None = None) -> Iterator[Atom]:
    """The elements of an mkv or webm file by their ids in hexadecimal, each before those within it."""
    end = len(data) if end is None else end
    while start < end:
        id_bytes = 9 - data[start].bit_length()
        size_bytes = 9 - data[start + id_bytes].bit_length()
        body = start + id_bytes + size_bytes
        size = int.from_bytes(data[start + id_bytes : body]) & ((1 << 7 * size_bytes) - 1)
        element = Atom(data[start : start + id_bytes].hex(), start, body, min(body + size, end))
        yield element
        if element.name in ("18538067", "1549a966"):  # Segment and Info
            yield from elements(data, element.body, element.end)
        start = element.end


def _write(path: Path, data: bytes | bytearray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _resized(data: bytearray, atom: Atom, body: bytes) -> bytearray:
    """The mp4 file with other content in one box; the sample data must come before it."""
    grown = len(body) - (atom.end - atom.body)
    out = bytearray(data)
    for outer in atoms(data):
        if outer.start <= atom.start and atom.end <= outer.end:
            struct.pack_into(">I", out, outer.start, outer.end - outer.start + grown)
    out[atom.body : atom.end] = body
    return out


# -- the ten kinds


def empty(path: Path) -> Path:
    """0 bytes."""
    return _write(path, b"")


def truncated(path: Path) -> Path:
    """Cut in the middle of the pictures; the header is whole."""
    data = good_bytes(path.suffix, faststart=path.suffix in MP4)
    part = _pictures(data, path.suffix)
    return _write(path, data[: (part.body + part.end) // 2])


def text(path: Path) -> Path:
    """The error page that a downloader saved under the video's name; 1 to 9 KB, by the file's name."""
    page = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n<body>\n"
    size = 1024 + 8192 * (sum(path.name.encode()) % 10) // 10
    page += "<p>The video that you asked for is not available in your country.</p>\n" * (size // 70)
    return _write(path, (page + "</body></html>\n").encode())


def audio_only(path: Path) -> Path:
    """Sound and no picture: .mp4, .mov, .mkv or .avi."""
    return _write(path, sound_bytes(path.suffix))


def over_reported(path: Path) -> Path:
    """A header that counts CLAIMED frames where COUNT are: avi's both counts, mp4's table of times, mkv's duration."""
    data = bytearray(good_bytes(path.suffix))
    if path.suffix in (".mkv", ".webm"):
        (duration,) = (part for part in elements(data) if part.name == "4489")
        form = ">d" if duration.end - duration.body == 8 else ">f"
        (told,) = struct.unpack_from(form, data, duration.body)
        struct.pack_into(form, data, duration.body, told * CLAIMED / COUNT)
    elif path.suffix == ".avi":
        for chunk in chunks(data):
            if chunk.name == "avih":
                struct.pack_into("<I", data, chunk.body + 16, CLAIMED)
            if chunk.name == "strh":
                struct.pack_into("<I", data, chunk.body + 32, CLAIMED)
    else:
        _set_times(data, count=CLAIMED)
    return _write(path, data)


def zero_duration(path: Path) -> Path:
    """An mp4 whose durations are 0, as are the distances of its frames."""
    data = bytearray(good_bytes(path.suffix))
    _clear_durations(data, edits=True)
    _set_times(data, delta=0)
    return _write(path, data)


def missing_moov(path: Path) -> Path:
    """An mp4 whose writing stopped before its header, which comes last."""
    data = good_bytes(path.suffix)
    (pictures,) = named(data, "mdat")
    return _write(path, data[: (pictures.body + pictures.end) // 2])


def unreadable(path: Path) -> Path:
    """A good file that nobody may read; root may all the same."""
    good(path).chmod(0)
    return path


def directory(path: Path) -> Path:
    """A folder, with a file in it that is no video, under a video's name."""
    path.mkdir(parents=True)
    (path / "readme.txt").write_text("not a video\n")
    return path


def fifo(path: Path) -> Path:
    """A named pipe that nobody writes to: opening it waits for ever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


# -- other ways to break


def over_reported_lost(path: Path) -> Path:
    """An mp4 of COUNT frames, the last third of which is zeros."""
    return _overwrite(path, 2 / 3, 1, bytes)


def over_reported_noise(path: Path) -> Path:
    """An mp4 of COUNT frames, the last third of which is noise."""
    return _overwrite(path, 2 / 3, 1, np.random.default_rng(0).bytes)


def over_reported_cut(path: Path) -> Path:
    """An mp4 that lacks the bytes of its last third of frames."""
    data = good_bytes(path.suffix, faststart=True)
    (pictures,) = named(data, "mdat")
    return _write(path, data[: pictures.body + (pictures.end - pictures.body) * 2 // 3])


def over_reported_sizes(path: Path) -> Path:
    """An mp4 whose tables of times and of sizes go on past the frames, into its header and beyond its end."""
    data = bytearray(good_bytes(path.suffix))
    _set_times(data, count=CLAIMED)
    (places,) = named(data, "stsc")
    entries = struct.unpack_from(">I", data, places.body + 4)[0]
    last = places.body + 8 + 12 * (entries - 1)
    samples = struct.unpack_from(">I", data, last + 4)[0]
    struct.pack_into(">I", data, last + 4, samples + CLAIMED - COUNT)
    (sizes,) = named(data, "stsz")
    table = np.resize(np.frombuffer(data[sizes.body + 12 : sizes.end], ">u4"), CLAIMED)
    body = bytes(data[sizes.body : sizes.body + 8]) + struct.pack(">I", CLAIMED) + table.astype(">u4").tobytes()
    return _write(path, _resized(data, sizes, body))


def zero_duration_header(path: Path) -> Path:
    """An mp4 whose header's durations are 0; its frames and its edit list keep their times."""
    data = bytearray(good_bytes(path.suffix))
    _clear_durations(data, edits=False)
    return _write(path, data)


def zero_duration_edits(path: Path) -> Path:
    """An mp4 whose header's durations are 0, also in its edit list, which so leaves no frame to show."""
    data = bytearray(good_bytes(path.suffix))
    _clear_durations(data, edits=True)
    return _write(path, data)


def zero_duration_times(path: Path) -> Path:
    """An mp4 whose frames are all shown at one time; its header keeps its durations."""
    data = bytearray(good_bytes(path.suffix))
    _set_times(data, delta=0)
    return _write(path, data)


def frameless(path: Path) -> Path:
    """A header and no frames."""
    return _write(path, good_bytes(path.suffix, count=0))


def corrupt_zeros(path: Path) -> Path:
    """A stretch in the middle of the pictures is zeros."""
    return _overwrite(path, 0.4, 0.6, bytes)


def corrupt_noise(path: Path) -> Path:
    """A stretch in the middle of the pictures is noise."""
    return _overwrite(path, 0.4, 0.6, np.random.default_rng(0).bytes)


def noise(path: Path) -> Path:
    """5,000 random bytes."""
    return _write(path, np.random.default_rng(0).bytes(5000))


def dangling(path: Path) -> Path:
    """A link to nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.with_name("nothing.mp4"))
    return path


KINDS: dict[str, Maker] = {
    "empty": empty,
    "truncated": truncated,
    "text": text,
    "audio_only": audio_only,
    "over_reported": over_reported,
    "zero_duration": zero_duration,
    "missing_moov": missing_moov,
    "unreadable": unreadable,
    "directory": directory,
    "fifo": fifo,
}
# The ways to make each kind, and for each of them the containers that it can be made in.
WAYS: dict[str, dict[Maker, tuple[str, ...]]] = {
    "empty": {empty: ANY},
    "truncated": {truncated: ANY, over_reported_cut: MP4},
    "text": {text: ANY},
    "audio_only": {audio_only: (".mp4", ".mov", ".mkv", ".avi")},
    "over_reported": {
        over_reported: ANY,
        over_reported_lost: MP4,
        over_reported_noise: MP4,
        over_reported_cut: MP4,
        over_reported_sizes: MP4,
    },
    "zero_duration": {
        zero_duration: MP4,
        zero_duration_header: MP4,
        zero_duration_edits: MP4,
        zero_duration_times: MP4,
        frameless: ANY,
    },
    "missing_moov": {missing_moov: MP4},
    "unreadable": {unreadable: ANY},
    "directory": {directory: ANY},
    "fifo": {fifo: ANY},
    # Beside the ten kinds:
    "noise": {noise: ANY},
    "dangling": {dangling: ANY},
    "corrupt_zeros": {corrupt_zeros: ANY},
    "corrupt_noise": {corrupt_noise: ANY},
}


def make(folder: Path, kind: str, number: int = 0) -> Path:
    """The ``number``-th file of a kind in a folder, going round the ways and the containers that there are for it."""
    ways = [(maker, ending) for maker, endings in WAYS[kind].items() for ending in endings]
    maker, ending = ways[number % len(ways)]
    return maker(folder / f"{kind}_{number}{ending}")


def _pictures(data: bytes | bytearray, suffix: str) -> Atom:
    """The part of a file that holds its pictures; in mkv and webm the whole of the file, headers being small."""
    if suffix in MP4:
        return named(data, "mdat")[0]
    if suffix == ".avi":
        return next(chunk for chunk in chunks(data) if chunk.name == "movi")
    return Atom("file", 0, 0, len(data))


def _overwrite(path: Path, first: float, last: float, filling: Callable[[int], bytes]) -> Path:
    """A good file, a stretch of whose pictures holds something else."""
    data = bytearray(good_bytes(path.suffix))
    part = _pictures(data, path.suffix)
    start, end = (part.body + int((part.end - part.body) * share) for share in (first, last))
    data[start:end] = filling(end - start)
    return _write(path, data)


def _set_times(data: bytearray, count: int | None = None, delta: int | None = None) -> None:
    """Change how many frames, or at what distances, the tables of times of an mp4 give."""
    for atom in named(data, "stts"):
        entries = struct.unpack_from(">I", data, atom.body + 4)[0]
        for entry in range(atom.body + 8, atom.body + 8 + 8 * entries, 8):
            if delta is not None:
                struct.pack_into(">I", data, entry + 4, delta)
        if count is not None:
            assert entries == 1, "the frames are not at equal distances"
            struct.pack_into(">I", data, atom.body + 8, count)


def _clear_durations(data: bytearray, edits: bool) -> None:
    """Set the durations in the headers of an mp4 to 0, and if asked those in its edit list."""
    version_0 = {"mvhd": 16, "tkhd": 20, "mdhd": 16}
    version_1 = {"mvhd": 24, "tkhd": 28, "mdhd": 24}
    for atom in named(data, *version_0):
        form, offset = (">Q", version_1) if data[atom.body] else (">I", version_0)
        struct.pack_into(form, data, atom.body + offset[atom.name], 0)
    for atom in (atom for atom in atoms(data) if edits and atom.name == "elst"):
        assert data[atom.body] == 0, "the edit list has 64-bit times"
        for entry in range(struct.unpack_from(">I", data, atom.body + 4)[0]):
            struct.pack_into(">I", data, atom.body + 8 + 12 * entry, 0)
