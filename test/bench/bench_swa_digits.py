"""Test accuracy of raw and averaged weights on scikit-learn's digits: raw, keras-swa and ascend_keras' SWA.

    python test/bench/bench_swa_digits.py [--seeds=8] [--epochs=40]

400 images with Gaussian noise to train on, 1,397 clean ones to test on; the split is fixed, a seed decides the initial
weights and the order of the images. The learning rate is held at its value, and the second half of the epochs is
averaged. `raw` and `SWA` are the same training; keras-swa trains from the same seed. "exact BN" says that the
statistics of batch normalization were re-estimated afterwards by `reestimate_batch_norm`, for comparison. Prints a
table in Markdown, mean and standard deviation over the seeds.
"""

import argparse
import datetime
import os
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

from ascend_keras import compat  # noqa: E402
from ascend_keras.callbacks.batch_norm import reestimate_batch_norm  # noqa: E402
from ascend_keras.callbacks.swa import SWA  # noqa: E402
from ascend_keras.compat import keras  # noqa: E402
from ascend_keras.data import toy  # noqa: E402
from ascend_keras.models import mlp  # noqa: E402

BATCH_SIZE = 20
NOISE = 0.3
# name: learning rate, momentum. High rates: averaging is for weights that still move.
OPTIMIZERS = {"SGD(3.0)": (3.0, 0.0), "SGD(0.4, momentum=0.9)": (0.4, 0.9), "SGD(0.1, momentum=0.9)": (0.1, 0.9)}
ARMS = ["raw, last epoch", "raw, exact BN", "keras-swa 0.1.7", "keras-swa 0.1.7, exact BN", "SWA"]


def main():
    """Runs all arms and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    flags = parser.parse_args()
    began = time.time()
    results = {}
    for name, (rate, momentum) in OPTIMIZERS.items():
        for seed in range(flags.seeds):
            for arm, metrics in run(seed, rate, momentum, flags.epochs).items():
                results.setdefault((arm, name), []).append(metrics)
            sys.stderr.write("{}, seed {}: {:.0f} s\n".format(name, seed, time.time() - began))
    print(table(results))
    print(
        "\n{} seeds, {} epochs, {}, {}, {}, {:.0f} s.\n`{}`".format(
            flags.seeds,
            flags.epochs,
            compat.stack_name(),
            machine(),
            datetime.date.today(),
            time.time() - began,
            " ".join(["python", os.path.relpath(os.path.abspath(__file__), ROOT)] + sys.argv[1:]),
        )
    )


def run(seed, rate, momentum, epochs):
    """All arms of one seed: {arm: (accuracy, loss)} on the test images."""
    (x, y), test = toy.digits(400, noise=NOISE, seed=0)
    options = dict(start_epoch=epochs // 2 + 1, lr_schedule="constant", swa_lr=rate, batch_size=BATCH_SIZE)
    swa = SWA(bn_data=x, **options)
    model = train(seed, rate, momentum, epochs, x, y, swa)
    found = {"SWA": test_metrics(model, test)}
    swa.use_raw()
    found["raw, last epoch"] = test_metrics(model, test)
    found["raw, exact BN"] = repaired(model, x, test)
    if not compat.KERAS3:
        from swa.tfkeras import SWA as KerasSWA

        model = train(seed, rate, momentum, epochs, x, y, KerasSWA(**options))
        found["keras-swa 0.1.7"] = test_metrics(model, test)
        found["keras-swa 0.1.7, exact BN"] = repaired(model, x, test)
    return found


def train(seed, rate, momentum, epochs, x, y, swa):
    """A trained model, from the seed on."""
    keras.backend.clear_session()
    compat.set_seed(seed)
    model = mlp.digits_cnn()
    model.compile(keras.optimizers.SGD(rate, momentum=momentum), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0, callbacks=[swa])
    return model


def repaired(model, x, test):
    """Metrics after an exact re-estimation of batch normalization."""
    reestimate_batch_norm(model, x, batch_size=BATCH_SIZE)
    return test_metrics(model, test)


def test_metrics(model, test):
    """Accuracy and loss on the test images."""
    loss, accuracy = model.evaluate(*test, batch_size=len(test[0]), verbose=0)
    return accuracy, loss


def table(results):
    """The Markdown table of mean and standard deviation."""
    lines = ["| arm | " + " | ".join("{0}: accuracy | loss".format(name) for name in OPTIMIZERS) + " |"]
    lines.append("|---" * (1 + 2 * len(OPTIMIZERS)) + "|")
    for arm in ARMS:
        cells = []
        for name in OPTIMIZERS:
            values = np.array(results.get((arm, name), np.empty((0, 2))))
            cells += ["{:.4f} +- {:.4f}".format(v.mean(), v.std(ddof=1)) if len(v) > 1 else "-" for v in values.T]
        lines.append("| {} | {} |".format(arm, " | ".join(cells)))
    if not any(arm.startswith("keras-swa") for arm, _ in results):
        lines.append("\nkeras-swa does not run on Keras 3.")
    return "\n".join(lines)


def machine():
    """Number of cores and name of the processor."""
    name = "unknown processor"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return "{} cores of {}".format(os.cpu_count(), name)


if __name__ == "__main__":
    main()
