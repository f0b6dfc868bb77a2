"""Several ranks as one: variables, statistics, logs and files, in processes of the host engine."""

import math
import pathlib

import numpy as np
import pytest
import ranks as host
import synchronise_ranks as script

from ascend_keras import compat
from ascend_keras.compat import keras

SCRIPT = pathlib.Path(__file__).resolve().parent / "synchronise_ranks.py"
SIZE = 3


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """What each rank of a run on this host says."""
    folder = tmp_path_factory.mktemp("files")
    results = host.run_host(SCRIPT, SIZE, env={"FOLDER": str(folder), "BACKEND": "host"})
    for rank, result in enumerate(results):
        assert result.returncode == 0, "rank {}:\n{}".format(rank, result.stderr[-3000:])
    return [result.value for result in results]


def forward(plain, epoch, x):
    """The model of the script in inference, in float64."""
    w = dict(zip(plain["names"], (np.asarray(a) for a in plain["epochs"][epoch])))

    def norm(x, name):
        x = (x - w[name + "/moving_mean"]) / np.sqrt(w[name + "/moving_variance"] + 1e-3)
        return x * w[name + "/gamma"] + w[name + "/beta"]

    hidden = norm(np.asarray(x, np.float64), "first") @ w["hidden/kernel"] + w["hidden/bias"]
    return norm(hidden, "second") @ w["last/kernel"] + w["last/bias"]


def errors(values, epoch):
    """The errors of each rank's validation samples."""
    parts = [script.validation(rank) for rank in range(len(values))]
    return [forward(values[0]["plain"], epoch, x) - y for x, y in parts]


def same(values, name, *keys):
    for key in keys:
        assert all(value[name][key] == values[0][name][key] for value in values), key


def variables_begin_as_those_of_rank_0(values):
    expected = script.exactly(script.build(0).get_weights())
    assert all(value["plain"]["began"] == expected for value in values)
    assert script.exactly(script.build(1).get_weights()) != expected
    assert all(value["plain"]["rate"] == 0.0625 for value in values)


def ranks_stay_equal_to_the_bit(values):
    same(values, "plain", "epochs", "momenta", "rate")
    assert len({str(epoch) for epoch in values[0]["plain"]["epochs"]}) == script.EPOCHS, "they train"


def statistics_are_merged_by_the_law_of_total_variance(values):
    names = values[0]["plain"]["statistics"]
    for epoch in range(script.EPOCHS):
        local = [dict(zip(names, (np.asarray(a) for a in value["plain"]["local"][epoch]))) for value in values]
        merged = dict(zip(values[0]["plain"]["names"], values[0]["plain"]["epochs"][epoch]))
        for name in ("first", "second"):
            means = np.array([rank[name + "/moving_mean"] for rank in local])
            variances = np.array([rank[name + "/moving_variance"] for rank in local])
            assert name == "second" or abs(means[0] - means[1]).min() > 0.1, "else nothing is to be merged"
            expected = variances.mean(axis=0) + (means**2).mean(axis=0) - means.mean(axis=0) ** 2
            np.testing.assert_allclose(merged[name + "/moving_mean"], means.mean(axis=0), rtol=1e-6)
            np.testing.assert_allclose(merged[name + "/moving_variance"], expected, rtol=1e-6)


def logs_are_those_of_all_ranks(values):
    same(values, "plain", "logs", "history")
    plain = values[0]["plain"]
    assert set(plain["history"]) == {"loss", "mae", "rmse", "val_loss", "val_mae", "val_rmse"}
    assert [{name: plain["history"][name][epoch] for name in logs} for epoch, logs in enumerate(plain["logs"])] == (
        plain["logs"]
    )
    losses = [value["plain"]["losses"] for value in values]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(plain["history"]["loss"], np.mean(losses, axis=0), rtol=1e-6)


def validation_is_exact_over_all_samples(values):
    history = values[0]["plain"]["history"]
    for epoch in range(script.EPOCHS):
        parts = errors(values, epoch)
        whole = np.concatenate(parts)
        np.testing.assert_allclose(history["val_loss"][epoch], np.mean(whole**2), rtol=1e-5)
        np.testing.assert_allclose(history["val_mae"][epoch], np.mean(abs(whole)), rtol=1e-5)
        # No quotient of sums: the mean over the ranks, weighted by samples.
        roots = [math.sqrt(np.mean(part**2)) for part in parts]
        weighted = np.average(roots, weights=[len(part) for part in parts])
        np.testing.assert_allclose(history["val_rmse"][epoch], weighted, rtol=1e-5)
        assert abs(np.mean([np.mean(part**2) for part in parts]) / np.mean(whole**2) - 1) > 1e-4


def evaluation_outside_of_fit_is_reduced(values):
    same(values, "plain", "evaluated", "listed")
    plain = values[0]["plain"]
    whole = np.concatenate(errors(values, -1))
    np.testing.assert_allclose(plain["evaluated"]["loss"], np.mean(whole**2), rtol=1e-5)
    assert list(plain["evaluated"].values()) == plain["listed"], "in Keras' order"
    assert values[0]["plain"]["local_evaluation"] != values[1]["plain"]["local_evaluation"]


def a_callback_of_one_rank_ends_all(values):
    assert [(value["stopped"]["epochs"], value["stopped"]["stop"]) for value in values] == [([0, 1], True)] * len(
        values
    )


def not_a_number_on_one_rank_ends_all_after_the_epoch(values):
    assert all(value["not_a_number"]["epochs"] == [0] for value in values)
    assert all(value["not_a_number"]["losses"] == ["nan"] for value in values)


def everything_together(values):
    same(values, "everything", "epochs", "history", "weights")
    history = values[0]["everything"]["history"]
    assert {"val_loss", "raw_val_loss", "val_mae", "raw_val_mae", "lr"} <= set(history)
    assert all(value["everything"]["paths"] == [True, True] for value in values), "their own again"


def files_of_rank_0_alone(values):
    files = set(values[0]["everything"]["files"])
    assert {"best.npz", "checkpoints", "log.csv"} <= files
    assert not [name for name in files if name.startswith(("ascend_keras_rank", "0_", "1_"))]
    assert "saved.h5" in values[0]["saved"]["files"]
    for value in values[1:]:
        assert value["everything"]["files"] == value["saved"]["files"] == []


def swa_without_re_estimation_has_one_statistic(values):
    same(values, "averages", "off", "average", "steps")
    assert values[0]["averages"]["off"] != values[0]["averages"]["average"]
    same(values, "averages", "sums", "lent")
    assert len(values[0]["averages"]["sums"]) == len(values[0]["averages"]["lent"]) == script.EPOCHS


def a_stop_of_one_rank_leaves_all_the_same_samples(values):
    same(values, "stopped_average", "weights")
    assert all(value["stopped_average"]["sampled"] == [2, 3] for value in values)


def an_evaluation_within_an_epoch_has_merged_statistics(values):
    same(values, "inside", "seen", "evaluated")
    local = [value["inside"]["kept"][0] for value in values]
    assert all(before == after for before, after in local), "each rank trains on with its own"
    assert local[0][0] != local[1][0]
    # moving mean and moving variance of the first layer, then of the second
    means, variances = (np.array([before[at] for before, _ in local]) for at in (0, 1))
    seen = values[0]["inside"]["seen"][0]
    np.testing.assert_allclose(seen[0], means.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(seen[1], variances.mean(axis=0) + means.var(axis=0), rtol=1e-6)


def other_learning_rates_are_refused_on_all(values):
    told = "0.25 on rank 0, " + ", ".join("0.5 on rank {}".format(rank) for rank in range(1, len(values)))
    expected = (
        "ValueError: The ranks differ in the learning rate at the end of epoch 2. Received:\n  learning rate: {}\nA "
        "callback has set it by a number that its rank alone has. What a callback adds to the logs, or decides by, has "
        "to be equal on all ranks: the numbers in the logs of an epoch are, those of batches are not.".format(told)
    )
    assert [value["other_rates"]["error"] for value in values] == [expected] * len(values)


def other_state_is_averaged(values):
    expected = [np.mean(range(len(values))) + 10 * epoch for epoch in range(script.EPOCHS)]
    assert all(value["other_layers"]["seen"] == expected for value in values)


def random_numbers_differ_by_the_rank(values):
    states = [value["seeds"]["states"] for value in values]
    if not compat.KERAS3:
        assert states == [[[], []]] * len(values)
        return
    for training in range(2):
        first = states[0][training][0]
        for rank, found in enumerate(states):
            assert found[training] == [[first[0] + rank, first[1]]]


def other_epochs_are_refused_on_all(values):
    told = ", ".join("{0} on rank {0}".format(rank) for rank in range(len(values)))
    expected = (
        "ValueError: The ranks differ in the plan of the training. Received:\n  initial_epoch: {}\nGive fit the same "
        "arguments on every rank, and every rank the checkpoints that another one sees.".format(told)
    )
    assert [value["other_epochs"]["error"] for value in values] == [expected] * len(values)


def other_metrics_are_refused_on_all(values):
    same(values, "other_metrics", "error")
    error = values[0]["other_metrics"]["error"]
    assert error.startswith("ValueError: The ranks are at different places of the training, or have different models.")
    lines = error.splitlines()[1:]
    assert lines[0].startswith("  rank 0: logs of the epoch: loss, ") and lines[0].count(",") == 2
    assert lines[1].startswith("  rank 1: logs of the epoch: loss, ") and lines[1].count(",") == 1
    assert lines[-1] == "Run the same script with the same arguments on every rank."


CHECKS = [
    variables_begin_as_those_of_rank_0,
    ranks_stay_equal_to_the_bit,
    statistics_are_merged_by_the_law_of_total_variance,
    logs_are_those_of_all_ranks,
    validation_is_exact_over_all_samples,
    evaluation_outside_of_fit_is_reduced,
    a_callback_of_one_rank_ends_all,
    not_a_number_on_one_rank_ends_all_after_the_epoch,
    everything_together,
    files_of_rank_0_alone,
    swa_without_re_estimation_has_one_statistic,
    other_state_is_averaged,
    random_numbers_differ_by_the_rank,
    other_epochs_are_refused_on_all,
    other_metrics_are_refused_on_all,
    a_stop_of_one_rank_leaves_all_the_same_samples,
    an_evaluation_within_an_epoch_has_merged_statistics,
    other_learning_rates_are_refused_on_all,
]


def check_all(check, values):
    """Runs a check, on a graph of its own."""
    expected = {"other_epochs", "other_metrics", "other_rates"}
    failed = {name: value.get("error") for name, value in values[0].items() if name not in expected}
    assert not any(failed.values()), failed
    try:
        check(values)
    finally:
        if compat.TF1:
            keras.backend.clear_session()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_this_host(values, check):
    check_all(check, values)
