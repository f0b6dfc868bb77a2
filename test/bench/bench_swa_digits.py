"""Test accuracy of raw and averaged weights on scikit-learn's digits: raw, keras-swa, Keras' EMA, ascend_keras' SWA.

    python test/bench/bench_swa_digits.py [--seeds=8] [--epochs=40] [--arms=SWA,EMA]

400 images with Gaussian noise to train on, 1,397 clean ones to test on; the split is fixed, a seed decides the initial
weights and the order of the images. The learning rate is held at its value, and the second half of the epochs is
averaged: equal weights once an epoch, or an exponential moving average over steps. `raw` is the training of `SWA`; each
other arm trains from the same seed. "exact BN" says that the statistics of batch normalization were re-estimated
afterwards by `reestimate_batch_norm`, for comparison. Prints a table in Markdown, mean and standard deviation over the
seeds; the exit status is 1 where SWA without momentum is below its limit.
"""

import argparse
import sys

import common
import numpy as np

from ascend_keras import compat
from ascend_keras.callbacks import SWA
from ascend_keras.callbacks.batch_norm import reestimate_batch_norm
from ascend_keras.compat import keras
from ascend_keras.data import toy
from ascend_keras.models import mlp

BATCH_SIZE = 20
NOISE = 0.3
DECAY = 0.99  # of the moving averages, a step; the default of Keras' optimizers
# name: learning rate, momentum. High rates: averaging is for weights that still move.
PLAIN = "SGD(3.0)"
OPTIMIZERS = {PLAIN: (3.0, 0.0), "SGD(0.4, momentum=0.9)": (0.4, 0.9), "SGD(0.1, momentum=0.9)": (0.1, 0.9)}
LIMIT = 0.9629 - 0.003  # accuracy of SWA without momentum


class Case:
    """One seed of one optimizer: trains, and measures on the test images."""

    def __init__(self, seed, rate, momentum, epochs):
        self.seed, self.rate, self.momentum, self.epochs = seed, rate, momentum, epochs
        (self.x, self.y), self.test = toy.digits(400, noise=NOISE, seed=0)
        # All in one, so that keras-swa gets the same.
        self.options = dict(start_epoch=epochs // 2 + 1, lr_schedule="constant", swa_lr=rate, batch_size=BATCH_SIZE)

    def train(self, callback, **optimizer_options):
        """A trained model, from the seed on."""
        keras.backend.clear_session()
        compat.set_seed(self.seed)
        model = mlp.digits_cnn()
        optimizer = keras.optimizers.SGD(self.rate, momentum=self.momentum, **optimizer_options)
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **common.compile_options())
        data = common.shuffled(self.x, self.y, BATCH_SIZE, self.seed)
        model.fit(epochs=self.epochs, verbose=0, callbacks=[callback] if callback else [], **data)
        return model

    def metrics(self, model):
        """Accuracy and loss on the test images."""
        loss, accuracy = model.evaluate(*self.test, batch_size=len(self.test[0]), verbose=0)
        return accuracy, loss

    def repaired(self, model):
        """The same after an exact re-estimation of batch normalization."""
        reestimate_batch_norm(model, self.x, batch_size=BATCH_SIZE)
        return self.metrics(model)


def run_swa(case):
    """SWA as it is, and the raw weights of the same training."""
    swa = SWA(bn_data=case.x, **case.options)
    model = case.train(swa)
    found = {"SWA": case.metrics(model)}
    swa.use_raw()
    found["raw, last epoch"] = case.metrics(model)
    found["raw, exact BN"] = case.repaired(model)
    return found


def run_keras_swa(case):
    """keras-swa as it is, and repaired."""
    if compat.KERAS3:
        return {}
    from swa.tfkeras import SWA as KerasSWA

    model = case.train(KerasSWA(**case.options))
    return {"keras-swa 0.1.7": case.metrics(model), "keras-swa 0.1.7, exact BN": case.repaired(model)}


def run_statistics(case):
    """SWA with each other way to the statistics of batch normalization."""
    found = {}
    for label, options in STATISTICS.items():
        data = None if options["bn"] in ("average", "off") else case.x
        found[label] = case.metrics(case.train(SWA(bn_data=data, **dict(case.options, **options))))
    return found


def run_ema(case):
    """Our moving average over the steps of the second half."""
    start = case.options["start_epoch"]
    ema = SWA(start, unit="step", average="ema", decay=DECAY, bn_data=case.x, batch_size=BATCH_SIZE)
    return {"EMA": case.metrics(case.train(ema))}


def run_keras_ema(case):
    """The moving average of Keras' optimizer; on Keras 3 with the callback that validates it."""
    if not (compat.KERAS3 or compat.NEW_OPTIMIZERS):
        return {}
    callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True) if compat.KERAS3 else None
    model = case.train(callback, use_ema=True, ema_momentum=DECAY)
    return {KERAS_EMA: case.metrics(model), KERAS_EMA + ", exact BN": case.repaired(model)}


STATISTICS = {
    'SWA, bn="partial", 2 batches': dict(bn="partial", bn_steps=2),
    'SWA, bn="average"': dict(bn="average"),
    'SWA, bn="off"': dict(bn="off"),
}
KERAS_EMA = "Keras SwapEMAWeights" if compat.KERAS3 else "Keras use_ema"
RUNS = {"SWA": run_swa, "keras-swa": run_keras_swa, "BN": run_statistics, "EMA": run_ema, "Keras": run_keras_ema}
ARMS = ["raw, last epoch", "raw, exact BN", "keras-swa 0.1.7", "keras-swa 0.1.7, exact BN", KERAS_EMA]
ARMS += [KERAS_EMA + ", exact BN", "EMA"] + list(STATISTICS) + ["SWA"]


def main():
    """Runs all arms and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=list(RUNS), help=",".join(RUNS))
    flags = parser.parse_args()
    run = common.Run()
    results = {}
    for name, (rate, momentum) in OPTIMIZERS.items():
        for seed in range(flags.seeds):
            case = Case(seed, rate, momentum, flags.epochs)
            for arms in flags.arms:
                for arm, metrics in RUNS[arms](case).items():
                    results.setdefault((arm, name), []).append(metrics)
            sys.stderr.write("{}, seed {}: {:.0f} s\n".format(name, seed, run.seconds()))
    print(table(results))
    print(run.footer("{} seeds".format(flags.seeds), "{} epochs".format(flags.epochs)))
    return verdict(results)


def verdict(results):
    """Prints whether SWA without momentum reaches its limit; returns the exit status."""
    if ("SWA", PLAIN) not in results:
        return 0
    accuracy = np.mean([metrics[0] for metrics in results["SWA", PLAIN]])
    held = accuracy >= LIMIT
    print("SWA, {}: {:.4f}, limit {:.4f}: {}.".format(PLAIN, accuracy, LIMIT, "held" if held else "**missed**"))
    return 0 if held else 1


def table(results):
    """The Markdown table of mean and standard deviation."""
    header = ["arm"] + [part for name in OPTIMIZERS for part in ("{}: accuracy".format(name), "loss")]
    rows = []
    for arm in ARMS:
        values = [np.array(results.get((arm, name), np.empty((0, 2)))) for name in OPTIMIZERS]
        if any(map(len, values)):
            rows.append([arm] + [common.spread(column) for runs in values for column in runs.T])
    return common.table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
