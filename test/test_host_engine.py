"""Ranks on a host: their gradients, weights and numbers, and what happens when one is missing."""

import socket
import threading

import host_ranks
import numpy as np
import pytest
import ranks

from ascend_keras import compat
from ascend_keras.distributed import collectives, peers
from ascend_keras.distributed.cluster import Cluster

SIZE = 2
# Steps at another order of additions: float32 has 6e-8, and eight steps pass it on.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}
TF2 = pytest.mark.skipif(compat.TF1, reason="TF 1.15 has one way of training")


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    results = ranks.run_host(ranks.harness.HERE / "host_ranks_main.py", SIZE, args=[folder], timeout=150)
    ranks.values(results)
    return results


@pytest.fixture(scope="module")
def values(launch):
    return [result.value for result in launch]


@pytest.fixture(scope="module")
def one_rank():
    """Weights after training on one rank, by what was trained."""
    if compat.TF1:
        compat.keras.backend.clear_session()
    trainer = compat_trainer()
    found = {name: host_ranks.train(trainer, name).get_weights() for name in sorted(host_ranks.OPTIMIZERS)}
    plain = host_ranks.prepared(trainer, host_ranks.model(), compat.keras.optimizers.SGD(0.1))
    plain.fit(*host_ranks.data(), batch_size=16, epochs=2, shuffle=False, verbose=0)
    found["plain"] = plain.get_weights()
    if compat.KERAS3:
        found["accumulated"] = host_ranks.accumulated(trainer, 0, 1)
    if compat.TF1:
        compat.keras.backend.clear_session()
    return {name: host_ranks.floats(weights) for name, weights in found.items()}


def compat_trainer():
    from ascend_keras import NPUTrainer

    return NPUTrainer("host", seed=1)


def assert_close(weights, expected):
    assert len(weights) == len(expected)
    for one, other in zip(weights, expected):
        np.testing.assert_allclose(one, other, **TOLERANCE)


def assert_same(values, key):
    for value in values[1:]:
        assert value[key] == values[0][key], key


class TestLaunch:
    def test_says_which_rank_it_is(self, values):
        assert [value["describe"]["rank"] for value in values] == ["0 of 2", "1 of 2"]

    def test_a_rank_takes_its_share_of_the_cores(self, values):
        for value in values:
            assert value["threads"] == max(1, value["cores"] // 2)
            assert value["describe"]["threads"] == value["threads"]

    def test_only_rank_0_talks(self, launch):
        assert ", rank 0 of 2" in launch[0].stderr
        assert "backend host" not in launch[1].stderr

    def test_ends_without_noise(self, launch):
        for result in launch:
            for word in ("Traceback", "Aborted", "core dumped", "terminate called", "Fatal"):
                assert word not in result.stderr


class TestVariables:
    def test_every_dtype_is_that_of_rank_0(self, values):
        expected = host_ranks.values_of_every_dtype(0)
        other = host_ranks.values_of_every_dtype(1)
        for value in values:
            assert value["broadcast"] == dict(zip(expected, host_ranks.hexed(expected.values())))
        differing = [name for name in expected if host_ranks.hexed([expected[name]]) != host_ranks.hexed([other[name]])]
        assert sorted(differing) == sorted(set(expected) - {"empty"})


class TestGradients:
    @pytest.mark.parametrize("name", sorted(host_ranks.known_gradients(0)))
    def test_dense_ones_are_averaged(self, values, name):
        mean = np.mean([host_ranks.known_gradients(rank)[name] for rank in range(SIZE)], 0)
        for value in values:
            np.testing.assert_array_equal(value["gradients"][name], -host_ranks.RATE * mean.ravel())

    def test_sparse_ones_are_averaged(self, values):
        mean = np.zeros([host_ranks.ROWS, 2])
        for rank in range(SIZE):
            for row in host_ranks.rows_of(rank):
                mean[row] += (rank + 1.0) / SIZE
        for value in values:
            np.testing.assert_array_equal(value["gradients"]["table"], -host_ranks.RATE * mean.ravel())

    def test_optimizers_with_gradients_of_one_form(self, values):
        mean = np.mean([host_ranks.twin_gradients(rank) for rank in range(SIZE)], 0)
        for value in values:
            np.testing.assert_array_equal(value["twins"], -2 * host_ranks.RATE * mean)

    @TF2
    def test_none_stays_none(self, values):
        assert [value["gradients"]["unused"] for value in values] == [[[1.0, 1.0]]] * SIZE

    def test_clipped_after_the_mean(self, values):
        mean = np.full([SIZE], 8.0 / SIZE)
        by_norm = mean / np.linalg.norm(mean)
        expected = [by_norm, np.minimum(mean, 0.75), 2.0 * by_norm][: len(host_ranks.CLIPS)]
        for value in values:
            np.testing.assert_allclose(value["clipped"], -host_ranks.RATE * np.array(expected * 2), rtol=1e-6)


class TestTraining:
    @pytest.mark.parametrize("name", sorted(host_ranks.OPTIMIZERS))
    def test_as_one_rank_with_the_global_batch(self, values, one_rank, name):
        for value in values:
            assert_close(value[name], one_rank[name])
        assert np.abs(np.concatenate(one_rank[name]) - np.concatenate(start())).max() > 0.05

    @pytest.mark.parametrize("name", sorted(host_ranks.OPTIMIZERS))
    def test_ranks_end_bit_equal(self, values, name):
        assert_same(values, name + " bits")
        assert_same(values, name + " optimizer")

    @pytest.mark.parametrize("name, cls", [("sgd", "SGD"), ("adam", "Adam")])
    def test_optimizer_stays_what_it_is(self, values, name, cls):
        told = values[0][name + " optimizer"]
        assert (told["class"], told["rate"], told["steps"]) == (cls, 0.03125, 8)
        assert values[0][name + " saved"] == [cls, False]
        assert values[0]["assembled again"] is True

    def test_loss_scaling_changes_nothing(self, values, one_rank):
        for value in values:
            assert_close(value["scaled"], one_rank["sgd"])

    def test_a_rank_may_compile_once_more(self, values, one_rank):
        for value in values:
            assert_close(value["compiled again"], one_rank["plain"])

    def test_all_ranks_skip_what_one_cannot_take(self, values):
        weight = 1.0
        for number in (0, 2, 3):
            examples = [host_ranks.overflow_data(rank) for rank in range(SIZE)]
            slopes = [2.0 * x[number, 0] * (weight * x[number, 0] - y[number, 0]) for x, y in examples]
            weight -= 0.25 * np.mean(slopes)
        for value in values:
            np.testing.assert_allclose(value["overflow"]["weights"], [[weight]], rtol=1e-5)
            assert value["overflow"]["skipped"] == 1
            assert value["overflow"]["scale"] == 2.0**14
            assert value["overflow"]["iterations"] == 4
        assert_same(values, "overflow")

    def test_last_batches_may_differ(self, values):
        assert_same(values, "uneven")

    @TF2
    @pytest.mark.parametrize("way", ["steps", "eager", "own"])
    def test_other_ways_of_training(self, values, one_rank, way):
        for value in values:
            assert_close(value["variants"][way], one_rank["sgd"])
            assert value["variants bits"][way] == values[0]["variants bits"][way]

    @pytest.mark.skipif(not compat.KERAS3, reason="Keras 3 alone adds gradients up over steps")
    def test_gradients_added_up_over_steps(self, values, one_rank):
        for value in values:
            assert_close(value["accumulated"], one_rank["accumulated"])

    def test_reduction_moves_with_the_loss_scaling(self, values):
        wrapped = [False, True] if compat.TF1 else [True, False]
        for value in values:
            assert value["moved"] == [[True], wrapped, wrapped, [True]]

    def test_a_second_trainer_finds_the_ranks(self, values, one_rank):
        for value in values:
            assert_close(value["second"], one_rank["sgd"])

    @pytest.mark.skipif(not compat.TF1, reason="sessions are of TF 1.15")
    def test_a_lost_session_is_told(self, values):
        for value in values:
            assert "Keras no longer runs in the session of the ranks" in value["cleared"]
            assert "Create a new NPUTrainer" in value["cleared"]

    def test_ranks_at_different_verbs_are_told(self, values):
        for number, pair in enumerate([("predict", "evaluate"), ("predict", "fit"), ("evaluate", "fit")]):
            for value in values:
                assert "Received: rank 0: {}, rank 1: {}. Call the same".format(*pair) in value["verbs"][number]

    def test_xla_is_refused(self, values):
        assert "XLA cannot compile the collectives" in values[0]["xla"]
        assert "Received: jit_compile=True on 2 ranks" in values[0]["xla"]


def start():
    """The weights of rank 0 before training, by the formula of host_ranks.model."""
    random = np.random.RandomState(9)
    return [random.uniform(-0.5, 0.5, shape).ravel() for shape in ((6, 5), (5,), (5, 2), (2,))]


class TestWholeRun:
    """Three ranks, mixed precision, SWA and checkpoints; then rank 2 raises."""

    @pytest.fixture(scope="class")
    def launch(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("checkpoints")
        # TF 1.15 cannot break off what waits for a rank that has ended, so there nothing waits.
        return folder, ranks.run_host(
            ranks.harness.HERE / "host_ranks_whole.py", 3, args=[folder], timeout=150, grace=30
        )

    @pytest.fixture(scope="class")
    def values(self, launch):
        assert [result.value is not None for result in launch[1]] == [True] * 3, launch[1][0].stderr[-3000:]
        return [result.value for result in launch[1]]

    def test_trained_variables_are_bit_equal(self, values):
        for key in ("trained", "state", "scale", "sum"):
            assert_same(values, key)
        assert all(value["finite"] and value["evaluated"] for value in values)
        assert values[0]["predicted"] == [4, 2]

    def test_numbers(self, values):
        mean = np.mean([host_ranks.known_gradients(rank)["matrix"] for rank in range(3)], 0).ravel()
        for value in values:
            assert value["sum"] == [0.1 + 0.2 + 0.1 * 3]
            np.testing.assert_allclose(value["mean"], -host_ranks.RATE * mean, rtol=1e-6, atol=1e-7)

    def test_loss_scale_is_reported_alike(self, values):
        for name in ("loss_scale", "skipped_steps"):
            assert len(values[0]["history"][name]) == 3
            for value in values:
                assert value["history"][name] == values[0]["history"][name]

    def test_one_rank_writes_the_checkpoints(self, launch, values):
        assert sorted(path.name for path in launch[0].glob("*.npz")) == ["ckpt-%05d.npz" % i for i in (1, 2, 3)]

    def test_an_error_ends_its_rank(self, launch):
        assert [result.returncode for result in launch[1]] == [0, 0, 1]
        assert "ValueError: this rank fails" in launch[1][2].stderr

    @TF2
    def test_the_others_are_told_of_a_lost_rank(self, values):
        for value in values[:2]:
            assert "Collective ops is aborted" in value["lost"]
            assert value["after"] < 20.0  # seconds


class TestMeeting:
    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            address = "127.0.0.1:{}".format(taken.getsockname()[1])
            cluster = Cluster(2, 1, 0, "tf_config", ("127.0.0.1:1", address))
            with pytest.raises(RuntimeError) as error:
                peers.check_port(cluster)
            for words in ("Rank 1 cannot listen on its port", "Received: address={!r}".format(address), "free port"):
                assert words in str(error.value)
        peers.check_port(cluster)

    def test_rank_that_does_not_come(self):
        with socket.socket() as there:
            there.bind(("127.0.0.1", 0))
            there.listen(1)
            addresses = ["127.0.0.1:{}".format(port) for port in ranks.free_ports(3)]
            addresses[1] = "127.0.0.1:{}".format(there.getsockname()[1])
            with pytest.raises(RuntimeError) as error:
                peers.wait_for_ranks(Cluster(3, 0, 0, "tf_config", tuple(addresses)), 0.2)
        assert "Rank 0 of 3 waited 0.2 s, and these did not come: rank 2 at {}.".format(addresses[2]) in str(
            error.value
        )
        assert "ASCEND_KERAS_CONNECT_TIMEOUT=SECONDS" in str(error.value)

    @pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
    def test_time_limit(self, text):
        with pytest.raises(
            ValueError, match="seconds above 0. Received: ASCEND_KERAS_CONNECT_TIMEOUT={!r}".format(text)
        ):
            peers.connect_timeout({peers.TIMEOUT_VARIABLE: text})
        assert peers.connect_timeout({}) == 300.0
        assert peers.connect_timeout({peers.TIMEOUT_VARIABLE: "2.5"}) == 2.5

    def test_watch_tells_once_who_has_ended(self, monkeypatch):
        monkeypatch.setattr(peers, "PERIOD", 0.05)
        lost, told = [], threading.Event()
        here, there = ranks.free_ports(2)
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", there))
            listening.listen(16)
            cluster = Cluster(2, 0, 0, "tf_config", ("127.0.0.1:{}".format(here), "127.0.0.1:{}".format(there)))
            watch = peers.Watch(cluster, lambda text: [lost.append(text), told.set()])
            watch.start()
            assert not told.wait(0.3)
        assert told.wait(10)
        watch.join(10)
        assert lost == ["rank 1 at 127.0.0.1:{} has ended".format(there)]
        assert not watch.is_alive()

    @pytest.mark.parametrize(
        "addresses, bound, expected", [(2, None, 2), (4, None, 1), (3, None, 1), (2, "1", 4), (8, None, 1)]
    )
    def test_threads_of_a_rank(self, monkeypatch, addresses, bound, expected):
        monkeypatch.setattr(collectives.os, "sched_getaffinity", lambda pid: set(range(4)))
        monkeypatch.delenv("ASCEND_KERAS_BOUND", raising=False)
        if bound:
            monkeypatch.setenv("ASCEND_KERAS_BOUND", bound)
        here = ["node0:{}".format(port) for port in range(1000, 1000 + addresses)]
        assert collectives.threads_per_rank(here + ["node1:1000"], 0) == expected

    def test_trainer_refuses_a_bad_tf_config(self, monkeypatch):
        monkeypatch.setenv("TF_CONFIG", '{"cluster": {"chief": ["a:1"], "worker": ["a:2"]}, "task": {"type": "chief"}}')
        with pytest.raises(ValueError) as error:
            compat_trainer()
        for words in ("workers only", "kinds chief", "'type' must be 'worker'"):
            assert words in str(error.value)


class TestNumbers:
    def test_bits_of_all_ranks(self, values):
        rows = [[1.0 + r, -0.1, float("nan") if r else 1.0, 1e300, 2.0**53] for r in range(SIZE)]
        for value in values:
            assert value["gather"] == host_ranks.hexed([np.array(rows)])
            assert value["sum"] == host_ranks.hexed([np.array([3.0, -0.2, np.nan, 2e300, 2.0**54])])
            assert value["empty"] == [SIZE, 0]

    def test_texts_of_all_ranks(self, values):
        long = ["rank {} \u00e4\n".format(rank) * (rank + 1) * 200 for rank in range(SIZE)]
        for value in values:
            assert value["texts"] == [["equal \u00e4"] * SIZE, long]
