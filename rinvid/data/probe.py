"""What a video file really holds, found by decoding all of it in a process that can be killed.

``python -m rinvid.data.probe BACKEND`` reads paths as JSON lines and answers each with a JSON line: facts, or how many
frames it has seen so far, so that whoever waits can tell a long file from a stuck one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rinvid.data.decode import Backend, open_video
from rinvid.data.readers import PyAVReader, VideoError, VideoReader, first_line

# Seconds between signs of life.
_HEARTBEAT = 1.0
# A header may promise so much more than the file holds, in seconds and in frames, since durations are rounded.
_SLACK_SECONDS, _SLACK_FRAMES = 0.25, 4


@dataclass(frozen=True)
class Probe:
    """What one file holds.

    Attributes:
        frames: Frames that can be decoded, from the first on.
        fps: Frames a second on average; 0 if unknown.
        width: Of a frame as shown, in pixels.
        height: Likewise.
        codec: FFmpeg's name of it.
        rotation: Degrees counterclockwise that the stored frames are turned to be shown.
        reason: Why the file is broken; empty if it is not.
    """

    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    rotation: int = 0
    reason: str = ""


def probe(path: Path, backend: Backend = "auto") -> Iterator[int | Probe]:
    """Decode a whole file: the number of frames so far, now and then, and at last what was found."""
    try:
        with open_video(path, backend) as reader:
            yield from _decode_all(reader, path)
    except VideoError as error:
        yield Probe(reason=str(error).removeprefix(f"{path}: "))
    except OSError as error:
        yield Probe(reason=f"cannot be read ({error.strerror or error})")


def _decode_all(reader: VideoReader, path: Path) -> Iterator[int | Probe]:
    info, reason, spoke = reader.info, "", time.monotonic()
    frames, width, height, rotation = 0, info.width, info.height, 0
    try:
        for frames, shown in enumerate(reader.scan(), start=1):
            if frames == 1:
                height, width, rotation = shown
            if time.monotonic() - spoke > _HEARTBEAT:
                spoke = time.monotonic()
                yield frames
    except Exception as error:
        reason = f"broken at frame {frames} ({first_line(error)})"
    if not reason and frames < info.frames:
        reason = f"{frames} of its {info.frames} frames can be decoded"
    if not reason and isinstance(reader, PyAVReader):
        reason = _broken_promise(path)
    yield Probe(frames, info.fps, width, height, info.codec, rotation, reason)


def _broken_promise(path: Path) -> str:
    """What the header promises and the file does not hold, or what is damaged; empty if all is well."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        assert stream is not None
        if stream.duration == 0:
            return "its header gives a duration of 0"
        packets = [packet for packet in container.demux() if packet.size]
        own = [packet for packet in packets if packet.stream.index == stream.index]
        if any(packet.is_corrupt for packet in own):
            return "its data are damaged"
        shown = {packet.pts for packet in own if packet.pts is not None}
        if len(own) > 1 and len(shown) == 1:
            return "all of its frames are shown at one time"
        kind, rate = container.format.name.split(","), float(stream.average_rate or stream.guessed_rate or 0)
        promised, end = (container.duration or 0) / 1e6, max(map(_end, packets), default=0.0)
        if "avi" in kind and rate:
            # FFmpeg makes the duration fit the size of an avi file; its header counts frames, repeated ones too.
            promised, end = stream.frames / rate, max(map(_end, own), default=0.0)
        if promised - end > max(_SLACK_SECONDS, _SLACK_FRAMES / rate if rate else 0.0):
            return f"its header promises {promised:.2f} s, the file ends at {end:.2f} s"
        frames = stream.frames
    if "mov" in kind and frames > len(own) and frames > (stored := _stored_frames(path)):
        return f"its header promises {frames} frames, the file holds {stored}"
    return ""


def _end(packet: Any) -> float:
    return float((packet.pts + (packet.duration or 0)) * packet.time_base) if packet.pts is not None else 0.0


def _stored_frames(path: Path) -> int:
    """Frames in an mp4 file, those that its edit list leaves out included."""
    import av

    with av.open(str(path), options={"ignore_editlist": "1"}) as container:
        return sum(1 for packet in container.demux(container.streams.best("video")) if packet.size)


class Prober:
    """A child process that probes one file after the other; it is killed and started anew when it is stuck.

    Args:
        backend: Decoder.
        timeout: Seconds without a sign of life after which a file counts as broken.
    """

    def __init__(self, backend: Backend, timeout: float) -> None:
        self.backend, self.timeout = backend, timeout
        self._child: subprocess.Popen[str] | None = None

    def __call__(self, path: Path) -> Probe:
        """What the file holds; a decoder that crashes or is stuck is a broken file."""
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        assert child.stdout is not None
        killed = threading.Event()
        try:
            child.stdin.write(json.dumps(str(path)) + "\n")
            child.stdin.flush()
            while True:
                with _killed_after(self.timeout, child) as killed:
                    answer = child.stdout.readline()
                if not answer:
                    break
                found = json.loads(answer)
                if isinstance(found, dict):
                    return Probe(**found)
        except BrokenPipeError:
            pass
        status = child.wait()
        self._child = None
        if killed.is_set():
            return Probe(reason=f"the decoder gave no sign of life for {self.timeout:g} s")
        return Probe(reason=f"the decoder crashed (exit status {status})")

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # -P keeps modules that lie in the current folder, which may be a data folder, out of it.
            [sys.executable, "-P", "-m", "rinvid.data.probe", self.backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child:
            self._child.kill()
            self._child.communicate()


class _killed_after:  # noqa: N801 (used as a statement)
    """A time limit on what is waited for in the block: at its end the process is killed and the event set."""

    def __init__(self, seconds: float, process: subprocess.Popen[Any]) -> None:
        self._over = threading.Event()
        self._timer = threading.Timer(seconds, self._kill, [process])
        self._timer.daemon = True

    def _kill(self, process: subprocess.Popen[Any]) -> None:
        self._over.set()
        process.kill()

    def __enter__(self) -> threading.Event:
        self._timer.start()
        return self._over

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()


def main() -> None:
    """Answer paths from standard input until it ends."""
    backend: Any = sys.argv[1]
    for line in sys.stdin:
        for found in probe(Path(json.loads(line)), backend):
            print(json.dumps(asdict(found) if isinstance(found, Probe) else found), flush=True)


if __name__ == "__main__":
    main()
