"""Where clips are cut from: the contract, and video files decoded on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rinvid.data.decode import Backend, Resize, read_clip
from rinvid.data.readers import Frames


class VideoSource(ABC):
    """Videos with names, lengths and perhaps classes. It is pickled to workers, so it holds no open file.

    Attributes:
        classes: Names of the classes, in the order of their labels; empty if the videos have none.
        size: Side of the square frames in pixels.
    """

    classes: Sequence[str]
    size: int

    def __len__(self) -> int:
        return len(self.frames)

    @property
    @abstractmethod
    def frames(self) -> NDArray[np.int32]:
        """Frames of each video, (N,)."""

    @property
    @abstractmethod
    def steps(self) -> NDArray[np.float64]:
        """Distance between a clip's frames, in frames of each video, (N,); see :func:`frame_span`."""

    @abstractmethod
    def name(self, video: int) -> str:
        """What messages call a video, by default its path."""

    @abstractmethod
    def label(self, video: int) -> int:
        """Label of a video, -1 if it has none."""

    @abstractmethod
    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        """``num_frames`` frames from frame ``start`` on, uint8 (num_frames, size, size, 3), perhaps read-only.

        Raises:
            VideoError: The video is broken.
            OSError: It cannot be read.
        """


class VideoTable:
    """Rows of videos in a memory-mapped Arrow file: pickling hands on its name, so that all workers share its pages.

    Args:
        file: An Arrow IPC file with the columns path, frames, step and label.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        with pa.memory_map(str(file)) as mapped:
            self._table: Any = pa.ipc.open_file(mapped).read_all()

    def __reduce__(self) -> tuple[type[VideoTable], tuple[Path]]:
        return VideoTable, (self._file,)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers, without a copy."""
        return np.asarray(self._table[name].chunk(0).to_numpy() if len(self) else [])

    def path(self, row: int) -> str:
        """The path in a row, relative to the root."""
        return str(self._table["path"][row].as_py())


class ListedVideos(VideoSource):
    """Videos whose facts stand in a table."""

    table: VideoTable

    @property
    def frames(self) -> NDArray[np.int32]:
        return self.table.column("frames")

    @property
    def steps(self) -> NDArray[np.float64]:
        return self.table.column("step")

    def label(self, video: int) -> int:
        return int(self.table.column("label")[video])


class VideoFiles(ListedVideos):
    """Video files below a folder, decoded when they are asked for.

    Args:
        root: Folder that the paths of ``table`` are relative to.
        table: The videos.
        size: Side of the square frames in pixels.
        classes: Names of the classes that the table's labels stand for.
        backend: Decoder, see :func:`rinvid.data.read_clip`.
        stride: Distance between frames.
        fps: Frames a second instead of a stride.
        resize: "crop" or "stretch".
    """

    def __init__(
        self,
        root: Path,
        table: VideoTable,
        size: int,
        classes: Sequence[str] = (),
        backend: Backend = "auto",
        stride: int = 1,
        fps: float | None = None,
        resize: Resize = "crop",
    ) -> None:
        self.root, self.table, self.size, self.classes = root, table, size, tuple(classes)
        self.backend, self.stride, self.fps, self.resize = backend, stride, fps, resize

    def name(self, video: int) -> str:
        return str(self.root / self.table.path(video))

    def read(self, video: int, start: int, num_frames: int, crop_at: float = 0.5) -> Frames:
        path = self.root / self.table.path(video)
        return read_clip(path, start, num_frames, self.stride, self.size, self.backend, self.fps, self.resize, crop_at)
