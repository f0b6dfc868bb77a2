"""Trains in processes of its own, each of which may kill itself, for test_resume.py.

    python resume_script.py PLAN.json

PLAN is a list of phases, run one after the other; see `Phase`. TensorFlow is imported once and each phase is forked off
before TensorFlow is used, so that it starts as a new process does, without the seconds that the import takes. Prints
"RESULT" and a JSON list with, for each phase, the signal that ended it, or its exit code as a negative number.
"""

import json
import os
import random
import signal
import sys
import traceback

import numpy as np

from ascend_keras import compat, optimizers
from ascend_keras.callbacks import SWA, Checkpoint
from ascend_keras.compat import keras, tf

layers = keras.layers
SAMPLES, BATCH = 24, 8
X = np.random.RandomState(0).randn(SAMPLES, 3).astype(np.float32)
Y = np.random.RandomState(1).randn(SAMPLES, 2).astype(np.float32)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


class Phase:
    """One process of a training.

    Keys of its dict: `folder`, for checkpoints, `trace.txt` and the result; `result`, its name if not `result.npz`;
    `epochs`; `seed`, that of the process; `optimizer`, a name; `swa`, arguments of SWA or None; `dropout`; `validate`;
    `own_data`, True to let SWA find the data of the training itself; `checkpoint`, False for a training without any;
    and `kill`, where the process kills itself, counted from 1: None, ["batch", epoch, batch], ["before", epoch] and
    ["after", epoch], that is before or after the checkpoint of an epoch is written, or ["batch norm"].
    """

    def __init__(self, plan):
        self.plan = plan
        self.folder = plan["folder"]
        self.kill = plan.get("kill") or [None]

    def run(self):
        self._prepare()
        model, swa = self._model(), self._swa()
        checkpoint = Checkpoint(os.path.join(self.folder, "checkpoints"), keep=2)
        report = checkpoint.restore(model) if self.plan.get("checkpoint", True) else None
        callbacks = [Trace(os.path.join(self.folder, "trace.txt")), Killer(self.kill, "batch")]
        callbacks += [swa] if swa else []
        callbacks += [Killer(self.kill, "before")]
        callbacks += [checkpoint] if self.plan.get("checkpoint", True) else []
        callbacks += [Killer(self.kill, "after")]
        validation = dict(validation_data=(X[:8], Y[:8])) if self.plan.get("validate") else {}
        model.fit(
            X,
            Y,
            batch_size=BATCH,
            shuffle=False,
            epochs=self.plan["epochs"],
            initial_epoch=report.epoch if report else 0,
            verbose=0,
            callbacks=callbacks,
            **validation,
        )
        self._write(model, swa)

    def _prepare(self):
        seed = self.plan["seed"]
        random.seed(seed)
        if compat.TF1:
            config = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
            keras.backend.set_session(tf.Session(config=config))
        else:
            tf.config.threading.set_intra_op_parallelism_threads(1)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        compat.set_seed(seed)

    def _model(self):
        inputs = keras.Input((3,))
        hidden = layers.BatchNormalization(momentum=0.9)(layers.Dense(4, "tanh")(inputs))
        if self.plan.get("dropout"):
            hidden = layers.Dropout(0.5)(hidden)
        model = keras.Model(inputs, layers.Dense(2)(hidden))
        # Keras 3 compiles with XLA by default, which takes longer than these trainings.
        options = dict(jit_compile=False) if compat.KERAS3 else {}
        model.compile(OPTIMIZERS[self.plan["optimizer"]](), "mse", **options)
        # Other weights in each process, so that all depends on what is restored.
        weights = np.random.RandomState(self.plan["seed"])
        model.set_weights([np.abs(weights.randn(*w.shape)).astype(np.float32) for w in model.get_weights()])
        return model

    def _swa(self):
        if not self.plan.get("swa"):
            return None
        data = None if self.plan.get("own_data") else Batches(kill_at=1 if self.kill == ["batch norm"] else None)
        return SWA(bn_data=data, **self.plan["swa"])

    def _write(self, model, swa):
        variables = [variable for _, variable in compat.optimizer_state(model.optimizer)]
        arrays = model.get_weights() + compat.get_values(variables + compat.seed_variables(model))
        if swa:
            arrays += list(swa.raw_weights) + [np.array(swa.lr_trace)]
            arrays += [np.array(swa.sampled_epochs), np.array(swa.sampled_steps)]
        names = ["{:03d}".format(index) for index in range(len(arrays))]
        np.savez(os.path.join(self.folder, self.plan.get("result", "result.npz")), **dict(zip(names, arrays)))


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.8)),
    "scaled": lambda: optimizers.scale_loss(keras.optimizers.SGD(0.1, momentum=0.9), "dynamic"),
    "adam": lambda: keras.optimizers.Adam(0.02),
}


class Batches(keras.utils.Sequence):
    """The training data, for batch normalization."""

    def __init__(self, kill_at):
        super().__init__()
        self.kill_at = kill_at

    def __len__(self):
        return SAMPLES // BATCH

    def __getitem__(self, index):
        if index == self.kill_at:
            kill()
        return X[index * BATCH : (index + 1) * BATCH], Y[index * BATCH : (index + 1) * BATCH]


class Trace(keras.callbacks.Callback):
    """Writes the learning rate of every step, in all its bits, to a file that survives the process."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        rate = compat.get_learning_rate(self.model.optimizer)
        with open(self.path, "a") as file:
            file.write("{} {} {}\n".format(self.epoch, batch, float(rate).hex()))


class Killer(keras.callbacks.Callback):
    """Kills the process at one point; stands in the list of callbacks where that point is."""

    def __init__(self, point, role):
        super().__init__()
        self.point, self.role = point, role

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.role == "batch" and self.point == ["batch", self.epoch + 1, batch + 1]:
            kill()

    def on_epoch_end(self, epoch, logs=None):
        if self.point == [self.role, epoch + 1]:
            kill()


def run_forked(plan):
    os.makedirs(plan["folder"], exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            Phase(plan).run()
            code = 0
        finally:
            if code:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


if __name__ == "__main__":
    with open(sys.argv[1]) as stream:
        phases = json.load(stream)
    print("RESULT " + json.dumps([run_forked(phase) for phase in phases]))
