"""The order of a run: one for any number of processes, any size of steps, and any place to go on from."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from rinvid.data.sampler import Request, ResumableSampler

LENGTH = 7


def take(sampler: ResumableSampler, steps: int) -> list[list[Request]]:
    return list(itertools.islice(sampler, steps))


def joined(count: int, global_batch: int, processes: int = 1, seed: int = 1, start: int = 0) -> list[Request]:
    """At least ``count`` requests of all processes together, in the order of the run."""
    steps = -(-count // global_batch)
    parts = [
        take(ResumableSampler(LENGTH, global_batch, processes, rank, seed, start), steps) for rank in range(processes)
    ]
    return [request for step in zip(*parts, strict=True) for part in step for request in part]


def test_each_epoch_is_a_permutation_of_its_own() -> None:
    items = [request.item for request in joined(10 * LENGTH, 5)]
    epochs = [tuple(items[first : first + LENGTH]) for first in range(0, 10 * LENGTH, LENGTH)]
    assert all(sorted(epoch) == list(range(LENGTH)) for epoch in epochs)
    assert len(set(epochs)) > 8


def test_the_order_is_given_by_the_seed() -> None:
    assert joined(50, 5, seed=1) == joined(50, 5, seed=1)
    first, second = ([request.item for request in joined(50, 5, seed=seed)] for seed in (1, 2))
    assert first != second


def test_a_sampler_begins_anew_each_time() -> None:
    sampler = ResumableSampler(LENGTH, 3, seed=1, start=5)
    assert take(sampler, 9) == take(sampler, 9)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 3, LENGTH, 2 * LENGTH + 5])
def test_processes_and_places_to_begin_share_one_order(processes: int, start: int) -> None:
    whole = joined(100, 1)
    for global_batch in (4, 8, 20):
        found = joined(40, global_batch, processes, start=start)
        assert found == whole[start : start + len(found)]


def test_each_sample_has_a_seed_of_its_own() -> None:
    seeds = [request.seed for request in joined(500, 5, seed=1)] + [request.seed for request in joined(500, 5, seed=2)]
    assert max(Counter(seeds).values()) == 1


def test_a_part_may_be_larger_than_the_data() -> None:
    (batch,) = take(ResumableSampler(3, 9), 1)
    assert [sorted(request.item for request in batch[first : first + 3]) for first in (0, 3, 6)] == [[0, 1, 2]] * 3


def test_a_place_far_along_is_reached_at_once() -> None:
    (batch,) = take(ResumableSampler(LENGTH, 4, start=10**12), 1)
    assert [request.seed for request in batch] == [(0, 10**12 + place) for place in range(4)]


def test_refused_sizes() -> None:
    with pytest.raises(ValueError, match="batch_size=6 does not divide over 4 processes"):
        ResumableSampler(10, 6, processes=4)
    with pytest.raises(ValueError, match="the data set is empty"):
        ResumableSampler(0, 4)
