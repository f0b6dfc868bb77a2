"""Which image stands in which batch: the rule of data/order.py against plain Python, and what it promises."""

import threading

import numpy as np
import pytest

from ascend_keras.data import threads
from ascend_keras.data.order import BLOCK, Order, steps_of

SEEDS = (0, 7, 2**40 + 3)


def whole_epoch(n, rank, ranks, seed, epoch, buffer=None):
    """The rule of the module's text, in loops."""
    random = np.random.RandomState([seed % 2**32, seed // 2**32, epoch % 2**32, epoch // 2**32])
    first, last = rank * n // ranks, (rank + 1) * n // ranks
    if buffer is None or buffer >= n:
        return list(random.permutation(n))[first:last]
    stream = []
    for block in random.permutation((n + BLOCK - 1) // BLOCK):
        stream += [k for k in range(block * BLOCK, (block + 1) * BLOCK) if k < n]
    uniform = random.uniform(size=n)
    keyed = [(i + buffer * uniform[first + i], k) for i, k in enumerate(stream[first:last])]
    return [k for _, k in sorted(keyed)]


def batches(order, first, count):
    return np.concatenate([order.batch(step) for step in range(first, first + count)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "n, batch, ranks, buffer", [(23, 4, 1, None), (50, 3, 3, None), (300, 8, 3, 40), (97, 1, 8, 5)]
)
def test_training_follows_the_rule(n, batch, ranks, buffer, seed):
    for rank in range(ranks):
        order = Order(n, batch, rank, ranks, seed, True, buffer)
        assert order.steps == n // ranks // batch
        for epoch in (0, 1, 2):
            expected = whole_epoch(n, rank, ranks, seed, epoch, buffer)
            got = batches(order, epoch * order.steps, order.steps)
            assert got.tolist() == expected[: order.steps * batch]
            assert order.epoch(epoch).tolist() == expected


@pytest.mark.parametrize("ranks", [1, 3, 8])
@pytest.mark.parametrize("buffer", [None, 30])
def test_ranks_are_disjoint_and_complete_in_each_epoch(ranks, buffer):
    n = 203
    orders = [Order(n, 5, rank, ranks, 1, True, buffer) for rank in range(ranks)]
    for epoch in range(3):
        parts = [order.epoch(epoch).tolist() for order in orders]
        assert sorted(position for part in parts for position in part) == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for order, part in zip(orders, parts):
            assert batches(order, epoch * order.steps, order.steps).tolist() == part[: order.steps * 5]


def test_an_epoch_has_an_order_of_its_own_and_ranks_change_their_parts():
    order = Order(1000, 10, 0, 2, 3)
    epochs = [order.epoch(epoch).tolist() for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    shared = len(set(epochs[0]) & set(epochs[1]))
    assert abs(shared - 250) < 3.5 * np.sqrt(1000 * 0.25 * 0.25)  # hypergeometric: 500 of 1000 twice, sd 7.9


def test_seeds_give_different_orders():
    orders = {tuple(Order(1000, 10, seed=seed).epoch(0).tolist()) for seed in (0, 1, 2, 2**32, 2**33)}
    assert len(orders) == 5


def test_any_batch_can_be_asked_for_first():
    straight = Order(100, 7, 1, 3, 9, True, 20)
    expected = [straight.batch(step).tolist() for step in range(14)]
    assert straight.steps == 4  # so that 14 batches cross three borders of epochs
    for step in (13, 0, 5, 8):
        assert Order(100, 7, 1, 3, 9, True, 20).batch(step).tolist() == expected[step]


def test_the_buffer_bounds_how_far_an_image_moves():
    n, buffer = 5000, 300
    order = Order(n, 10, seed=4, buffer=buffer)
    stream = whole_stream(n, 4)
    place = {k: i for i, k in enumerate(stream)}
    moved = np.array([i - place[k] for i, k in enumerate(order.epoch(0).tolist())])
    assert np.abs(moved).max() < buffer
    # u uniform: the place changes by buffer * (u - 1/2), whose standard deviation is buffer / sqrt(12).
    assert np.std(moved[buffer:-buffer]) == pytest.approx(buffer / np.sqrt(12), rel=0.05)


def whole_stream(n, seed):
    blocks = np.random.RandomState([seed, 0, 0, 0]).permutation(-(-n // BLOCK))
    return [k for block in blocks for k in range(block * BLOCK, min(n, (block + 1) * BLOCK))]


def test_reading_ahead_names_everything_before_its_turn():
    order = Order(3000, 10, 0, 2, seed=6, buffer=200)
    for first in (0, 37):
        asked = set()
        for step in range(first, order.steps):
            asked.update(order.read_ahead(step, step == first).tolist())
            assert set(order.batch(step).tolist()) <= asked
    assert len(order.read_ahead(20, False)) == 10
    assert len(Order(3000, 10).read_ahead(0, True)) == 0


@pytest.mark.parametrize("n", [50, 49, 7])
@pytest.mark.parametrize("batch", [1, 4, 50, 64])
@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_evaluation_counts_each_image_once_in_order(n, batch, ranks):
    steps = steps_of(n, batch, ranks, False)
    found = []
    for rank in range(ranks):
        order = Order(n, batch, rank, ranks, training=False)
        assert order.steps == steps == int(np.ceil(np.ceil(n / ranks) / batch))
        mine = batches(order, 0, steps)
        assert len(mine) == steps * batch
        found += [k for k in mine.tolist() if k >= 0]
    assert found == list(range(n))


def test_evaluation_with_more_ranks_than_images():
    found = [Order(3, 2, rank, 8, training=False).batch(0).tolist() for rank in range(8)]
    assert sorted(k for batch in found for k in batch if k >= 0) == [0, 1, 2]


class TestSubstitutes:
    def test_the_first_is_the_image_itself(self):
        order = Order(40, 3, 1, 2, 5)
        for step in (0, 4, 7, 20):
            assert [order.substitute(step * 3 + row, 0) for row in range(3)] == order.batch(step).tolist()

    @pytest.mark.parametrize("n", [1, 2, 3, 10, 55, 1000])
    def test_they_go_round_all_images_of_the_rank(self, n):
        order = Order(n, 1, seed=2)
        found = [order.substitute(0, attempt) for attempt in range(n)]
        assert sorted(found) == list(range(n))

    def test_they_stay_in_the_epoch_and_part_of_the_rank(self):
        order = Order(90, 5, 1, 3, 8)
        for step in (0, 9):
            part = set(order.epoch(step // order.steps).tolist())
            assert {order.substitute(step * 5, attempt) for attempt in range(30)} == part


class TestSeeds:
    def test_they_depend_on_seed_epoch_and_position_alone(self):
        positions = np.arange(20)
        one, two = Order(20, 4, seed=3), Order(20, 5, 1, 2, seed=3)
        assert one.steps == 5 and two.steps == 2
        np.testing.assert_array_equal(one.seeds(7, positions), two.seeds(3, positions))  # both epoch 1
        np.testing.assert_array_equal(one.seeds(7, positions)[::-1], one.seeds(5, positions[::-1]))

    def test_they_differ(self):
        found = [Order(100, 10, seed=seed).seeds(step, np.arange(100)) for seed in range(5) for step in (0, 10, 20)]
        rows = np.concatenate(found)
        assert len({tuple(row) for row in rows.tolist()}) == 1500
        assert rows.min() >= 0
        # Bits of random numbers: the mean of 3,000 uniform numbers lies within 3.5 sd of 1/2.
        assert np.mean(rows / 2.0**63) == pytest.approx(0.5, abs=3.5 / np.sqrt(12 * 3000))

    def test_they_are_splitmix64(self):
        # The sequence of the generator from state 0, as published with its reference code.
        from ascend_keras.data.order import _mix

        gamma = 0x9E3779B97F4A7C15
        states = np.array([k * gamma % 2**64 for k in range(3)], np.uint64)
        assert _mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_several_threads_get_the_same():
    order, found = Order(500, 5, seed=1), {}

    def ask(first):
        for step in range(first, 400, 4):
            found[step] = order.batch(step).tolist()

    workers = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    again = Order(500, 5, seed=1)
    assert [found[step] for step in range(400)] == [again.batch(step).tolist() for step in range(400)]


class TestCpuCount:
    def quota(self, tmp_path, files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return threads.cpu_count(str(tmp_path))

    @pytest.fixture(autouse=True)
    def bound(self, monkeypatch):
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(24)))

    @pytest.mark.parametrize(
        "text, cpus", [("max 100000", 24), ("400000 100000", 4), ("50000 100000", 1), ("250000 100000", 3)]
    )
    def test_quota_of_version_2(self, tmp_path, text, cpus):
        assert self.quota(tmp_path, {"sys/fs/cgroup/cpu.max": text}) == cpus

    @pytest.mark.parametrize("quota, cpus", [("-1", 24), ("600000", 6), ("9900000", 24)])
    def test_quota_of_version_1(self, tmp_path, quota, cpus):
        folder = "sys/fs/cgroup/cpu/cpu.cfs_"
        assert self.quota(tmp_path, {folder + "quota_us": quota, folder + "period_us": "100000"}) == cpus

    def test_no_control_group(self, tmp_path):
        assert threads.cpu_count(str(tmp_path)) == 24
