"""The order in which a run sees its data: a function of seed and position alone, so that resuming is exact."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Request(NamedTuple):
    """One sample wanted: its place in the data set, and the seed of all that is random about it."""

    item: int
    seed: tuple[int, int]


def as_request(asked: Request | int) -> Request:
    """A plain number as a request, with itself as the seed."""
    return asked if isinstance(asked, Request) else Request(int(asked), (0, int(asked)))


class ResumableSampler(Sampler[list[Request]]):
    """Endless batches of requests: each epoch is a permutation given by (seed, epoch).

    The samples of a run stand in one global order, and a process takes its part of each step's batch from it. So
    neither the order nor a sample's seed depends on the number of processes or on where a run was resumed.

    Args:
        length: Items of the data set.
        global_batch: Samples a step, over all processes.
        processes: How many equal parts a step's samples are cut into.
        rank: Which part is this process's.
        seed: Seed of the order and of the samples.
        start: Position in the global order to begin at, which is the number of samples seen already.

    Raises:
        ValueError: ``processes`` does not divide ``global_batch``, there are no items, or a number is out of range.
    """

    def __init__(
        self, length: int, global_batch: int, processes: int = 1, rank: int = 0, seed: int = 0, start: int = 0
    ) -> None:
        if global_batch < 1 or processes < 1 or not 0 <= rank < processes or start < 0:
            raise ValueError(
                "a sampler needs global_batch and processes of at least 1, rank below processes and start >= 0, "
                f"got {global_batch=}, {processes=}, {rank=}, {start=}"
            )
        if global_batch % processes:
            raise ValueError(f"batch_size={global_batch} does not divide over {processes} processes")
        if length < 1:
            raise ValueError("there is nothing to sample from: the data set is empty")
        self.length, self.global_batch, self.part = length, global_batch, global_batch // processes
        self.rank, self.seed, self.start = rank, seed, start

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, order = -1, np.empty(0, np.int64)
        for first in count(self.start + self.rank * self.part, self.global_batch):
            batch = []
            for position in range(first, first + self.part):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
                batch.append(Request(int(order[position % self.length]), (self.seed, position)))
            yield batch
