"""Windows of prepared sources and mixtures of sources: content, order, and detection of damage."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, thread
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer.context import Stopped
from trainer.data.order import permutation
from trainer.data.sources import Fetching, Mixture, PreparedSource, open_mixture

from orchestrator.contract.mixture import counts
from orchestrator.contract.tasks import FromInitialisation, Optimizer, Schedule, Shape, Trajectory
from orchestrator.errors import Damaged, KeyMissing, TaskRefused
from orchestrator.store import Store, open_store, records
from orchestrator.store.memory import Fault, InMemoryObjects, in_memory_store
from tests.trainer.prepared import END_OF_TEXT, publish

T = 5
SHAPE = Shape(width=8, layers=1, heads=1, feed_forward=8, vocabulary=64, tied=True, rope_theta=10000, norm_eps="1e-5")
TRAJECTORY = Trajectory(
    start=FromInitialisation(SHAPE, 1, "0.02"), shares=(), already_read=(), data_seed=1, sequence_length=T, batch=4,
    optimizer=Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "0"), schedule=Schedule("constant", 0, "0.001"), precision="float32",
    numerics=1,
)  # fmt: skip

Window = tuple[str, int]
"""Digest of a source and index of a window."""


@pytest.fixture(scope="module")
def store() -> Store:
    return in_memory_store()


@pytest.fixture(scope="module")
def opened(store: Store, cache: Path) -> dict[str, PreparedSource]:
    """Three sources of 40, 7 and 23 windows, with tokens left over."""
    digests = sorted(publish(store, number, range(1, windows * T + 3)) for number, windows in enumerate((40, 7, 23)))
    return {digest: PreparedSource.open(store, digest, cache) for digest in digests}


Shares = Iterable[tuple[str, int]]
Sources = dict[str, PreparedSource]


def mixture_of(opened: Sources, shares: Shares, **changes: Any) -> Mixture:
    trajectory = replace(TRAJECTORY, shares=tuple(shares), **changes)
    return Mixture(trajectory, [opened[digest] for digest, _ in trajectory.shares])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def read(mixture: Mixture, windows: int) -> list[Window]:
    """The first `windows` windows of a trajectory."""
    return [(mixture.sources[source].digest, window) for source, window in map(mixture.window, range(windows))]


def of_source(windows: list[Window], digest: str) -> list[int]:
    return [window for source, window in windows if source == digest]


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(2, 200))
def test_windows_overlap_by_one_token(shard_tokens: int, length: int, tokens: int) -> None:
    store = in_memory_store()
    digest = publish(store, 0, range(tokens), shard_tokens=shard_tokens)
    with TemporaryDirectory() as folder:
        source = PreparedSource.open(store, digest, Path(folder))
        assert source.windows(length) == (tokens - 1) // length
        for index in range(source.windows(length)):
            assert source.window(index, length).tolist() == list(range(index * length, index * length + length + 1))


three_shares = st.lists(st.integers(1, 99), min_size=3, max_size=3)


@settings(max_examples=40)
@given(three_shares, st.integers(0, 10**6))
def test_each_window_occurs_once_per_epoch(opened: Sources, shares: list[int], seed: int) -> None:
    windows = read(mixture_of(opened, zip(opened, shares, strict=True), data_seed=seed), 240)
    for digest, source in opened.items():
        size, seen = source.windows(T), of_source(windows, digest)
        for start in range(0, len(seen), size):
            epoch = seen[start : start + size]
            assert len(set(epoch)) == len(epoch)
            assert len(epoch) < size or sorted(epoch) == list(range(size))


def test_epochs_have_different_orders(opened: Sources) -> None:
    digest, source = next(iter(opened.items()))
    size = source.windows(T)
    seen = of_source(read(mixture_of(opened, [(digest, 1)]), 3 * size), digest)
    assert seen[:size] != seen[size : 2 * size] != seen[2 * size :]


@settings(max_examples=40)
@given(three_shares, st.integers(1, 300))
def test_every_prefix_has_the_shares_of_the_mixture(opened: Sources, shares: list[int], prefix: int) -> None:
    windows = read(mixture_of(opened, zip(opened, shares, strict=True)), prefix)
    for digest, share in zip(opened, shares, strict=True):
        assert abs(len(of_source(windows, digest)) - prefix * share / sum(shares)) <= 2


@settings(max_examples=40)
@given(three_shares, st.lists(st.integers(1, 99), min_size=2, max_size=2))
def test_different_shares_read_prefixes_of_the_same_order(opened: Sources, shares: list[int], others: list[int]) -> None:
    """Cells that differ in code percent are comparable, even if one of them lacks a source."""
    in_both = list(opened)[1:]
    one = read(mixture_of(opened, zip(opened, shares, strict=True)), 80)
    other = read(mixture_of(opened, zip(in_both, others, strict=True)), 80)
    for digest in in_both:
        first, second = of_source(one, digest), of_source(other, digest)
        common = min(len(first), len(second))
        assert first[:common] == second[:common]


@given(three_shares, st.integers(1, 24), st.integers(0, 50))
def test_batches_of_any_size_read_the_same_windows(opened: Sources, shares: list[int], batch: int, step: int) -> None:
    one = mixture_of(opened, zip(opened, shares, strict=True), batch=batch).batch(step)
    single = mixture_of(opened, zip(opened, shares, strict=True), batch=1)
    alone = [single.batch(position) for position in range(step * batch, (step + 1) * batch)]
    assert one.window_ids.tolist() == [each.window_ids[0].tolist() for each in alone]
    assert one.ids.tolist() == [each.ids[0].tolist() for each in alone]


@settings(max_examples=40)
@given(three_shares, three_shares, st.integers(0, 150))
def test_continued_stage_reads_the_windows_after_those_of_its_parent(
    opened: Sources, shares: list[int], later: list[int], read_before: int
) -> None:
    already_read = zip(opened, counts(shares, read_before), strict=True)
    parent = mixture_of(opened, zip(opened, shares, strict=True))
    child = mixture_of(opened, zip(opened, later, strict=True), already_read=tuple(pair for pair in already_read if pair[1]))
    chain = read(parent, read_before) + read(child, 100)
    for digest in opened:
        seen = of_source(chain, digest)
        assert seen == of_source(read(mixture_of(opened, [(digest, 1)]), len(seen)), digest)


def test_batch_contains_the_windows_of_its_window_ids(opened: Sources) -> None:
    mixture = mixture_of(opened, [(digest, 1) for digest in opened])
    batch = mixture.batch(7)
    assert batch.ids.dtype == np.int64
    assert batch.ids.shape == (4, T + 1)
    for row, (source, window) in zip(batch.ids, batch.window_ids, strict=True):
        assert row.tolist() == mixture.sources[source].window(int(window), T).tolist()


def test_order_does_not_depend_on_block_boundaries(cache: Path) -> None:
    store = in_memory_store()
    windows = 2500
    digest = publish(store, 0, range(windows * T + 1))
    mixture = open_mixture(store, replace(TRAJECTORY, shares=((digest, 1),)), cache)
    expected = [int(window) for epoch in (0, 1) for window in permutation(1, digest, epoch, windows)(np.arange(windows))]
    assert of_source(read(mixture, 2 * windows), digest) == expected


def test_order_depends_on_the_data_seed_and_not_on_the_model(opened: Sources) -> None:
    shares = [(digest, 1) for digest in opened]
    bigger = FromInitialisation(replace(SHAPE, width=16), 2, "0.01")
    base = read(mixture_of(opened, shares), 80)
    assert read(mixture_of(opened, shares, start=bigger), 80) == base
    assert read(mixture_of(opened, shares, data_seed=2), 80) != base


@pytest.mark.parametrize("tokens", [0, 1, T])
def test_source_shorter_than_one_window_is_refused(tokens: int, cache: Path) -> None:
    store = in_memory_store()
    digest = publish(store, 0, range(tokens))
    with pytest.raises(TaskRefused, match=rf"{digest} has {tokens} tokens, less than one window of {T}"):
        open_mixture(store, replace(TRAJECTORY, shares=((digest, 1),)), cache)


def test_sources_with_different_tokenizers_are_refused(cache: Path) -> None:
    store = in_memory_store()
    digests = sorted([publish(store, 0, range(50), vocabulary=60), publish(store, 1, range(50), vocabulary=70)])
    with pytest.raises(TaskRefused, match="different tokenizers"):
        open_mixture(store, replace(TRAJECTORY, shares=tuple((digest, 1) for digest in digests)), cache)


@pytest.mark.parametrize(("vocabulary", "size"), [(65_535, 2), (65_536, 4), (200_000, 4)])
def test_ids_have_two_bytes_if_the_vocabulary_allows(vocabulary: int, size: int, cache: Path) -> None:
    store = in_memory_store()
    ids = [0, 1, vocabulary - 1] * 4
    source = PreparedSource.open(store, publish(store, 0, ids, vocabulary=vocabulary), cache)
    assert source.dtype.itemsize == size
    assert source.window(0, 11).tolist() == ids


def test_held_out_documents_are_sorted_by_hash(cache: Path) -> None:
    store = in_memory_store()
    texts = [[number, number + 1, number + 2] for number in range(20)]
    source = PreparedSource.open(store, publish(store, 0, range(50), texts, shard_tokens=7), cache)
    documents = source.held_out(1000)
    assert source.held_out_documents == len(documents) == 20
    assert [document.hash for document in documents] == sorted(document.hash for document in documents)
    assert sorted(document.ids.tolist() for document in documents) == texts
    assert [document.hash for document in source.held_out(5)] == [document.hash for document in documents[:5]]
    assert all(document.bytes == 9 and document.ids.dtype == np.int64 for document in documents)
    assert source.end_of_text == END_OF_TEXT


def test_unprepared_source_raises_key_missing(store: Store, cache: Path) -> None:
    with pytest.raises(KeyMissing, match="no record yet"):
        open_mixture(store, replace(TRAJECTORY, shares=(("0" * 64, 1),)), cache)


def damage(store: Store, digest: str, name: str, change: str) -> None:
    record = records.read_record(store, digest)
    assert record is not None
    path = store.objects.local_path(record.artifacts[name].key)
    assert path is not None
    content = path.read_bytes()
    path.write_bytes(content[:-2] if change == "truncated" else content[:20] + bytes([content[20] ^ 1]) + content[21:])


@pytest.mark.parametrize("change", ["truncated", "flipped"])
@pytest.mark.parametrize("name", ["training-00001.bin", "manifest"])
def test_damaged_source_cannot_be_opened(name: str, change: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    digest = publish(store, 0, range(300), shard_tokens=100)
    damage(store, digest, name, change)
    with pytest.raises(Damaged, match="truncated or replaced" if change == "truncated" else "has changed since it was written"):
        open_mixture(store, replace(TRAJECTORY, shares=((digest, 1),)), tmp_path / "cache")


@pytest.mark.parametrize("name", ["held-out-00000.bin", "held-out-00000.documents"])
def test_damaged_held_out_documents_are_found(name: str, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    digest = publish(store, 0, range(300), [list(range(30))])
    damage(store, digest, name, "flipped")
    source = PreparedSource.open(store, digest, tmp_path / "cache")
    assert source.window(0, T).tolist() == list(range(T + 1))
    with pytest.raises(Damaged, match=name):
        source.held_out(1)


def test_callback_is_called_per_shard_by_the_opening_thread(tmp_path: Path) -> None:
    store = in_memory_store()
    digests = sorted(publish(store, number, range(300), shard_tokens=100) for number in (0, 1))
    calls: list[int] = []
    watching = Fetching(lambda: calls.append(threading.get_ident()))
    open_mixture(store, replace(TRAJECTORY, shares=tuple((digest, 1) for digest in digests)), tmp_path, watching)
    assert calls == 6 * [threading.get_ident()]


def test_callback_is_called_for_held_out_files(tmp_path: Path) -> None:
    store = in_memory_store()
    digest = publish(store, 0, range(300), [[number] * 7 for number in range(20)], shard_tokens=70)
    calls: list[str] = []
    PreparedSource.open(store, digest, tmp_path).held_out(3, Fetching(lambda: calls.append("shard")))
    assert len(calls) == len([key for _, key in fetches(store) if "held-out" in key]) == 4


def fetches(store: Store) -> list[tuple[str, str]]:
    assert isinstance(store.objects, InMemoryObjects)
    return [(name, key) for name, key in store.objects.log if name == "fetch"]


class BlockingObjects(InMemoryObjects):
    """Objects whose fetches, except that of the first shard, block until `stopped` is set and the queued fetches are cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = threading.Event()

    def fetch(self, key: str, path: Path) -> None:
        super().fetch(key, path)
        if not key.endswith("training-00000.bin"):
            self.stopped.wait()
            queue, deadline = thread._threads_queues[threading.current_thread()], time.monotonic() + 60
            while queue.qsize() > 1 and time.monotonic() < deadline:  # one entry remains: it ends the threads
                time.sleep(0.001)


def test_exception_in_callback_stops_fetching_at_once(tmp_path: Path) -> None:
    objects = BlockingObjects()
    store = in_memory_store(objects=objects)
    shards, threads = 50, 8
    digest = publish(store, 0, range(100 * shards), shard_tokens=100)

    def stop() -> None:
        objects.stopped.set()
        raise Stopped

    with pytest.raises(Stopped):
        open_mixture(store, replace(TRAJECTORY, shares=((digest, 1),)), tmp_path, Fetching(stop))
    assert len(fetches(store)) <= 1 + threads, "only shards whose fetch had begun are fetched"


def test_processes_that_share_a_cache_fetch_each_shard_once(tmp_path: Path) -> None:
    store = in_memory_store([Fault("fetch", "*", "delay", times=1000, seconds=0.02)])
    digest = publish(store, 0, range(500), shard_tokens=100)
    trajectory = replace(TRAJECTORY, shares=((digest, 1),))
    barrier = threading.Barrier(3)

    def on_shard() -> None:
        barrier.wait(timeout=300)

    def batch(local_rank: int) -> Any:
        return open_mixture(store, trajectory, tmp_path, Fetching(on_shard, follows=local_rank > 0)).batch(0).ids.tolist()

    with ThreadPoolExecutor(3) as ranks:
        batches = list(ranks.map(batch, range(3)))
    assert batches[0] == batches[1] == batches[2]
    assert len(fetches(store)) == 5


def test_shards_of_a_folder_store_are_not_copied(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    mixture = open_mixture(store, replace(TRAJECTORY, shares=((publish(store, 0, range(300)), 1),)), tmp_path / "cache")
    assert mixture.batch(0).ids.shape == (4, T + 1)
    assert not (tmp_path / "cache").exists()
