"""Batches from worker processes that cannot hang unnoticed: who is stuck, at which file, and how much is broken."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rinvid.data.clips import Batch, VideoClips
from rinvid.data.readers import Frames, VideoError

logger = logging.getLogger(__name__)

StartMethod = Literal["spawn", "fork", "forkserver"]
# The share of broken samples is judged from so many on.
_JUDGED_FROM = 200


class LoaderError(OSError):
    """A worker is stuck or has died; the text names the worker and the file that it was reading."""


class Desk:
    """What each worker is reading and since when, in memory that all processes share."""

    def __init__(self, workers: int) -> None:
        self._names = torch.zeros(workers, 512, dtype=torch.uint8).share_memory_()
        self._since = torch.zeros(workers, dtype=torch.float64).share_memory_()

    def note(self, name: str) -> None:
        """Called in a worker: it begins to read the file ``name``; the empty name says that it is done."""
        info = get_worker_info()
        if info is None:
            return
        text = np.frombuffer(name.encode()[-512:], np.uint8)
        row = self._names[info.id].numpy()
        row[: len(text)] = text
        row[len(text) :] = 0
        self._since[info.id] = time.monotonic() if name else 0.0

    def reading(self) -> list[str]:
        """One line for each worker that is reading, the longest at it first."""
        now, lines = time.monotonic(), []
        for worker in self._since.argsort().tolist():
            if since := float(self._since[worker]):
                name = bytes(self._names[worker].numpy()).rstrip(b"\0").decode(errors="replace")
                lines.append(f"worker {worker} has been reading {name} for {now - since:.0f} s")
        return lines


class _AtDesk(Dataset[Batch]):
    """The clips, with each worker's doings noted."""

    def __init__(self, items: Any, desk: Desk) -> None:
        self.items, self.desk = items, desk

    def __getitems__(self, requests: list[Any]) -> Batch:
        self.items.on_read = self.desk.note
        batch: Batch = self.items.__getitems__(requests)
        self.desk.note("")
        return batch


class Loader:
    """Batches of ``items`` in the order of ``sampler``, as an iterator.

    Args:
        items: A data set whose ``__getitems__`` gives a :class:`Batch`.
        sampler: Lists of requests.
        workers: Processes that read; 0 reads in this one.
        start_method: How they are started. Under "fork" they inherit the locks of this process's threads.
        pin_memory: Put batches where copies to a GPU need not wait.
        timeout: Seconds without a batch after which a worker counts as stuck.
        max_broken: Share of samples that may be broken, from the first 200 on.

    Attributes:
        drawn: Samples given out.
        broken: Reasons of what was broken, by file.
        replaced: Samples that stand in the place of broken ones.
    """

    def __init__(
        self,
        items: Any,
        sampler: Iterable[list[Any]],
        workers: int = 0,
        start_method: StartMethod = "spawn",
        pin_memory: bool = False,
        timeout: float = 120,
        max_broken: float = 1.0,
    ) -> None:
        self.timeout, self.max_broken = timeout, max_broken
        self.drawn, self.replaced = 0, 0
        self.broken: dict[str, str] = {}
        self._desk = Desk(workers)
        self._batches: Iterator[Batch] = iter(
            DataLoader(
                _AtDesk(items, self._desk) if workers else items,
                batch_sampler=sampler,
                num_workers=workers,
                collate_fn=_as_it_is,
                pin_memory=pin_memory,
                timeout=timeout if workers else 0,
                worker_init_fn=_leave_interrupts_to_main,
                multiprocessing_context=start_method if workers else None,
            )
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            LoaderError: No batch came within the time limit, or a worker died.
            VideoError: More of the samples are broken than ``max_broken`` allows.
        """
        try:
            batch = next(self._batches)
        except RuntimeError as error:
            if not str(error).startswith(("DataLoader timed out", "DataLoader worker (pid")):
                raise
            what = f"no data for {self.timeout:g} s" if "timed out" in str(error) else "a loader worker died"
            raise LoaderError(f"{what}: {'; '.join(self._desk.reading()) or 'no worker is reading'}") from error
        self._count(batch)
        return batch

    def _count(self, batch: Batch) -> None:
        self.drawn += len(batch.samples)
        for line in batch.broken:
            self.replaced += 1
            name, _, reason = line.partition(": ")
            if name not in self.broken:
                self.broken[name] = reason
                logger.warning("replaced %s", line)
        if self.drawn >= _JUDGED_FROM and self.replaced > self.max_broken * self.drawn:
            name, reason = next(reversed(self.broken.items()))
            raise VideoError(
                f"{self.replaced} of {self.drawn} samples are broken, more than max_broken={self.max_broken:g} allows; "
                f"the last: {name}: {reason}"
            )


class _Windows(Dataset[Batch]):
    """Given windows of clips; one that cannot be read is an empty batch with its reason."""

    def __init__(self, clips: VideoClips) -> None:
        self.clips = clips

    @property
    def on_read(self) -> Any:
        return self.clips.on_read

    @on_read.setter
    def on_read(self, note: Any) -> None:
        self.clips.on_read = note

    def __getitems__(self, windows: list[tuple[int, int]]) -> Batch:
        ((video, start),) = windows
        label = torch.tensor([self.clips.source.label(video)])
        try:
            return Batch(torch.tensor(self.clips.window(video, start))[None], label, [])
        except (VideoError, OSError) as error:
            return Batch(torch.empty(0, dtype=torch.uint8), label, [str(error)])


def held_out(clips: VideoClips, count: int, **options: Any) -> tuple[Frames, Tensor, list[str]]:
    """Up to ``count`` windows spread evenly over the videos, read once and never replaced.

    Args:
        clips: The held-out part of the data.
        count: How many.
        **options: workers, start_method and timeout of :class:`Loader`.

    Returns:
        uint8 (N, F, size, size, 3); their labels (N,); and one line for each window that could not be read, which
        makes N smaller.

    Raises:
        VideoError: No window can be read.
    """
    windows = [[window] for window in clips.spread(count)]
    batches = list(Loader(_Windows(clips), windows, **options))
    good = [batch for batch in batches if not batch.broken]
    left_out = [line for batch in batches for line in batch.broken]
    if not good:
        raise VideoError(f"none of {len(windows)} held-out clips can be read; the first: {left_out[0]}")
    samples = torch.cat([batch.samples for batch in good]).numpy()
    return samples, torch.cat([batch.labels for batch in good]), left_out


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_interrupts_to_main(worker: int) -> None:
    """A terminal sends Ctrl-C to every process; workers must live on until the run is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
