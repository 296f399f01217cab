"""Batches from worker processes that cannot hang unnoticed: who is stuck, at which file, and how much is broken."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, cycle
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rinvid.data.clips import Batch, Failure, VideoClips
from rinvid.data.readers import Frames, VideoError

logger = logging.getLogger(__name__)

StartMethod = Literal["spawn", "fork", "forkserver"]
# The share of broken samples is judged from so many on.
_JUDGED_FROM = 200
# Batches that each worker reads ahead.
_PREFETCH = 2


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


class Items(Protocol):
    """What a loader reads from: see :class:`rinvid.data.clips.VideoClips`.

    Attributes:
        on_read: To be called with the name of each file before it is read.
    """

    on_read: Callable[[str], None] | None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one uint8 sample."""

    def fill(self, requests: Sequence[Any], samples: Tensor) -> Batch:
        """Write the samples asked for into ``samples``; the batch may hold fewer than were asked for."""


class _Read(NamedTuple):
    """A batch as it comes from a worker, without its samples."""

    slot: int
    samples: int
    labels: list[int]
    broken: list[Failure]


class _Ring(Dataset[Batch]):
    """The items as a worker reads them: into memory that all processes share and that is used again and again.

    Fresh shared memory for every batch would cost several times what filling it costs.
    """

    def __init__(self, items: Items, desk: Desk, slots: int, batch_size: int) -> None:
        self.items, self.desk = items, desk
        self.samples = torch.empty((slots, batch_size, *items.sample_shape), dtype=torch.uint8).share_memory_()

    def __getitems__(self, asked: tuple[int, list[Any]]) -> _Read | Exception:
        slot, requests = asked
        self.items.on_read = self.desk.note
        try:
            batch = self.items.fill(requests, self.samples[slot, : len(requests)])
        except (ValueError, OSError) as error:
            # To be raised in the main process as it is: torch would make its traceback the message.
            return error
        finally:
            self.desk.note("")
        # Labels not as a tensor: that would come in shared memory of its own.
        return _Read(slot, len(batch.samples), batch.labels.tolist(), batch.broken)

    def batch(self, read: _Read | Exception) -> Batch:
        """In the main process: what a worker has read."""
        if isinstance(read, Exception):
            raise read
        return Batch(self.samples[read.slot, : read.samples], torch.tensor(read.labels), read.broken)


class Loader:
    """Batches of ``items`` in the order of ``sampler``, as an iterator.

    A batch's samples are valid until the next batch is asked for: their memory is used again.

    Args:
        items: What is read.
        sampler: Lists of requests, each of the same length or shorter than the first.
        workers: Processes that read; 0 reads in this one.
        start_method: How they are started. Under "fork" they inherit the locks of this process's threads.
        pin_memory: Give out samples in memory from which copies to a GPU need not wait.
        timeout: Seconds without a batch after which a worker counts as stuck.
        max_broken: Share of reads that may fail, from the first 200 samples on.

    Attributes:
        drawn: Samples given out.
        broken: Reasons of what was broken, by file.
        replaced: Reads that failed, after each of which another item was tried.
    """

    def __init__(
        self,
        items: Items,
        sampler: Iterable[list[Any]],
        workers: int = 0,
        start_method: StartMethod = "spawn",
        pin_memory: bool = False,
        timeout: float = 120,
        max_broken: float = 1.0,
    ) -> None:
        self.timeout, self.max_broken, self.pin_memory = timeout, max_broken, pin_memory
        self.drawn, self.replaced = 0, 0
        self.broken: dict[str, str] = {}
        self._desk = Desk(workers)
        requests = iter(sampler)
        self._reader: Any = None
        self._batches: Iterator[Batch]
        if not workers:
            self._batches = (items.fill(asked, _empty(len(asked), items.sample_shape)) for asked in requests)
            return
        # A slot more than batches that are on their way: the one that was given out last.
        slots = workers * _PREFETCH + 2
        first = next(requests, [])
        ring = _Ring(items, self._desk, slots, len(first))
        self._reader = iter(
            DataLoader(
                ring,
                batch_sampler=zip(cycle(range(slots)), chain([first], requests), strict=False),  # type: ignore[arg-type]
                num_workers=workers,
                prefetch_factor=_PREFETCH,
                collate_fn=_as_it_is,
                timeout=timeout,
                worker_init_fn=_leave_interrupts_to_main,
                multiprocessing_context=start_method,
            )
        )
        self._batches = map(ring.batch, self._reader)

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
            self.close()
            what = f"no data for {self.timeout:g} s" if "timed out" in str(error) else "a loader worker died"
            raise LoaderError(f"{what}: {'; '.join(self._desk.reading()) or 'no worker is reading'}") from error
        self._count(batch)
        return batch._replace(samples=batch.samples.pin_memory()) if self.pin_memory else batch

    def close(self) -> None:
        """End the workers."""
        if self._reader is not None:
            self._reader._shutdown_workers()

    def _count(self, batch: Batch) -> None:
        self.drawn += len(batch.samples)
        for failure in batch.broken:
            self.replaced += 1
            if failure.name not in self.broken:
                self.broken[failure.name] = failure.reason
                logger.warning("cannot read %s: %s", *failure)
        if self.drawn >= _JUDGED_FROM and self.replaced > self.max_broken * (self.drawn + self.replaced):
            last = Failure(*next(reversed(self.broken.items())))
            raise VideoError(
                f"{self.replaced} of {self.drawn + self.replaced} reads failed, more than "
                f"max_broken={self.max_broken:g} allows; the last: {last}"
            )


class _Windows:
    """Given windows of clips, one a batch; one that cannot be read is an empty batch with its reason."""

    on_read: Callable[[str], None] | None = None

    def __init__(self, clips: VideoClips) -> None:
        self.clips, self.sample_shape = clips, clips.sample_shape

    def fill(self, requests: Sequence[tuple[int, int]], samples: Tensor) -> Batch:
        ((video, start),) = requests
        self.clips.on_read = self.on_read
        label = torch.tensor([self.clips.source.label(video)])
        try:
            np.copyto(samples[0].numpy(), self.clips.window(video, start))
        except (VideoError, OSError) as error:
            return Batch(samples[:0], label, [Failure.of(self.clips.source.name(video), error)])
        return Batch(samples, label, [])


def held_out(clips: VideoClips, count: int, **options: Any) -> tuple[Frames, Tensor, list[Failure]]:
    """Up to ``count`` windows spread evenly over the videos, read once and never replaced.

    Args:
        clips: The held-out part of the data.
        count: How many.
        **options: workers, start_method and timeout of :class:`Loader`.

    Returns:
        uint8 (N, F, size, size, 3); their labels (N,); and each window that could not be read, which makes N smaller.

    Raises:
        VideoError: No window can be read.
        ValueError: ``count`` is less than 1.
    """
    if count < 1:
        raise ValueError(f"there must be at least one held-out clip, got {count=}")
    windows = clips.spread(count)
    loader = Loader(_Windows(clips), [[window] for window in windows], **options)
    samples, labels = [], []
    left_out: list[Failure] = []
    for batch in loader:
        left_out += batch.broken
        if not batch.broken:
            samples.append(batch.samples.clone())
            labels.append(batch.labels)
    loader.close()
    if not samples:
        raise VideoError(f"none of {len(windows)} held-out clips can be read; the first: {left_out[0]}")
    return torch.cat(samples).numpy(), torch.cat(labels), left_out


def _empty(count: int, shape: tuple[int, ...]) -> Tensor:
    return torch.empty((count, *shape), dtype=torch.uint8)


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_interrupts_to_main(worker: int) -> None:
    """A terminal sends Ctrl-C to every process; workers must live on until the run is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
