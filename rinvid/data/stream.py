"""Batches from data sets that are read in order while they come: images or clip caches, from the hub or a disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from rinvid.data.clips import Batch, Failure
from rinvid.data.decode import frame_span
from rinvid.data.images import Images
from rinvid.data.readers import Frames, VideoError

# A row, its name and its source of chance -> a uint8 sample and its label.
Convert = Callable[[Any, str, np.random.Generator], tuple[Frames, int]]


def stream_images(images: Images, batch_size: int, **options: Any) -> Iterator[Batch]:
    """Endless batches of images that were opened with ``streaming=True``; options as :func:`stream` has them."""

    def convert(row: Any, name: str, rng: np.random.Generator) -> tuple[Frames, int]:
        image, label = images.convert(row, name)
        return (image[:, ::-1] if images.flip and rng.random() < 0.5 else image), label

    return stream(images.data, convert, batch_size, skip_broken=images.replace, **options)


def stream_clips(data: Any, num_frames: int, batch_size: int, stride: int = 1, **options: Any) -> Iterator[Batch]:
    """Endless batches of clips, one random window a video.

    Args:
        data: A clip cache as ``datasets.load_dataset("arrow", data_files=..., split=..., streaming=True)`` opens it.
        num_frames: Frames of a clip.
        batch_size: Clips a batch, in this process.
        stride: Distance between a clip's frames.
        **options: As :func:`stream` has them.
    """
    span = int(frame_span(num_frames, stride))

    def convert(row: Any, name: str, rng: np.random.Generator) -> tuple[Frames, int]:
        room = row["num_frames"] - span
        if room < 0:
            raise VideoError(f"{row['path']}: has {row['num_frames']} frames, a clip needs {span}")
        size = math.isqrt(len(row["frames"]) // (3 * row["num_frames"]))
        frames = np.frombuffer(row["frames"], np.uint8).reshape(-1, size, size, 3)
        start = int(rng.integers(room + 1))
        return frames[start : start + span : stride], row["label"]

    return stream(data, convert, batch_size, skip_broken=True, **options)


def stream(
    data: Any,
    convert: Convert,
    batch_size: int,
    skip_broken: bool = False,
    seed: int = 0,
    start: int = 0,
    processes: int = 1,
    rank: int = 0,
    buffer: int = 1000,
) -> Iterator[Batch]:
    """Endless batches of a streamed data set; each epoch is shuffled by (seed, epoch) within a buffer.

    Going on is exact for the same number of processes, at the price of reading past what was seen.

    Args:
        data: An ``IterableDataset`` of ``datasets``.
        convert: Makes a sample of a row.
        batch_size: Samples a batch, in this process.
        skip_broken: Pass over rows that cannot be converted, and name them in their batch; otherwise one is an error.
        seed: Seed of the order and of what is random about a sample.
        start: Rows that this process has read already.
        processes: How many processes share the stream.
        rank: Which share is this process's.
        buffer: Rows that the shuffling looks ahead.

    Raises:
        ValueError: A row cannot be converted, or an epoch gives no sample.
    """
    from datasets.distributed import split_dataset_by_node

    data = split_dataset_by_node(data.shuffle(seed=seed, buffer_size=buffer), rank=rank, world_size=processes)
    position, epoch = 0, 0
    samples: list[tuple[Frames, int]] = []
    broken: list[Failure] = []
    while True:
        data.set_epoch(epoch)
        good = False
        for row in data:
            position += 1
            if position <= start:
                good = True
                continue
            name = f"row {position - 1} of the stream"
            try:
                samples.append(convert(row, name, np.random.default_rng((seed, rank, position))))
            except ValueError as error:
                if not skip_broken:
                    raise
                broken.append(Failure.of(name, error))
                continue
            good = True
            if len(samples) == batch_size:
                arrays, labels = zip(*samples, strict=True)
                yield Batch(torch.from_numpy(np.stack(arrays)), torch.tensor(labels), broken)
                samples, broken = [], []
        if not good:
            raise ValueError("the stream holds nothing that can be used" + (f": {broken[0]}" if broken else ""))
        epoch += 1
