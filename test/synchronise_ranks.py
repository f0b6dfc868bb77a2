"""Trainings on several ranks; test_synchronise.py and test_rank_collectives.py run this as a script on every rank."""

import importlib.util
import json
import os
import sys

import numpy as np
import tensorflow as tf

from ascend_keras import NPUTrainer, callbacks, compat, saving
from ascend_keras.backends.base import RankSum
from ascend_keras.callbacks import synchronise

keras = tf.keras
# Validation samples of the ranks: not as many on each.
VALIDATED = (7, 5, 9)
EPOCHS = 3
QUICK = dict(jit_compile=False) if compat.KERAS3 else {}


def shard(rank, rows=12):
    """Inputs and targets of a rank, in training."""
    random = np.random.RandomState(rank)
    return (5 + 3 * rank + random.randn(rows, 3)).astype("float32"), random.randn(rows, 2).astype("float32")


def validation(rank):
    """Inputs and targets of a rank, in validation."""
    return shard(rank + 10, VALIDATED[rank])


def own_folder(rank):
    """A folder of this rank alone, so that the files of one do not hide those of another."""
    path = os.path.join(os.environ["FOLDER"], "rank{}".format(rank))
    os.makedirs(path, exist_ok=True)
    return path


def exactly(arrays):
    """Arrays as lists of Python floats, which JSON keeps bit for bit."""
    return [np.asarray(array, np.float64).tolist() for array in arrays]


def collectives(rank):
    """How many collectives the fakes have seen so far."""
    path = os.path.join(os.environ.get("FAKE_ASCEND_DIR", ""), "collectives.rank{}.jsonl".format(rank))
    if not os.path.exists(path):
        return 0
    with open(path) as file:
        return sum(1 for _ in file)


class Record(keras.callbacks.Callback):
    """What is in the model at the end of each epoch, and what local statistics there were after the last step."""

    def on_train_begin(self, logs=None):
        self.began = exactly(compat.get_values(self.model.weights))
        self.epochs, self.local, self.logs, self.losses = [], [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.batches = []

    def on_train_batch_end(self, batch, logs=None):
        self.last = exactly(compat.get_values(self.model.non_trainable_weights))
        self.batches.append(float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(exactly(compat.get_values(self.model.weights)))
        self.local.append(self.last)
        # TF 1.15 tells the loss of each batch, the others their mean so far.
        self.losses.append(float(np.mean(self.batches)) if compat.TF1 else self.batches[-1])
        self.logs.append({name: float(value) for name, value in logs.items()})


class Counter(keras.layers.Layer):
    """Keeps a number that no gradient sees."""

    def build(self, shape):
        self.seen = self.add_weight(name="seen", shape=(), initializer="zeros", trainable=False)
        super().build(shape)

    def call(self, inputs):
        return inputs


def build(rank, norm=True, counter=False):
    """A model whose weights differ on each rank, compiled with a learning rate that does."""
    inputs = keras.Input((3,))
    hidden = keras.layers.BatchNormalization(momentum=0.5, name="first")(inputs) if norm else inputs
    hidden = Counter(name="counter")(hidden) if counter else hidden
    hidden = keras.layers.Dense(4, name="hidden")(hidden)
    hidden = keras.layers.BatchNormalization(momentum=0.5, name="second")(hidden) if norm else hidden
    model = keras.Model(inputs, keras.layers.Dense(2, name="last")(hidden))
    random = np.random.RandomState(100 + rank)
    model.set_weights([np.abs(random.standard_normal(w.shape)).astype("float32") for w in model.get_weights()])
    return model


class Ranks:
    """The trainer of this rank, and what it does on several, step by step."""

    def __init__(self):
        self.trainer = NPUTrainer(os.environ["BACKEND"], loss_scale=None)
        self.backend = self.trainer.backend
        self.rank = self.backend.settings.cluster.rank
        self.results = {}

    def fit(self, model, used, x=None, y=None, val=True, **arguments):
        """As the trainer does it."""
        data = shard(self.rank) if x is None else (x, y)
        if val:
            arguments.setdefault("validation_data", validation(self.rank))
        arguments = dict(dict(batch_size=4, epochs=EPOCHS, shuffle=False, verbose=0), **arguments)
        for callback in used:
            if hasattr(callback, "set_ranks"):
                callback.set_ranks(RankSum(self.backend), self.rank == 0)
        self.backend.before_run(1, {"train": 3, "test": 2})
        used = callbacks.for_ranks(used, self.backend)
        try:
            return model.fit(*data, callbacks=used, **arguments)
        except BaseException:
            for callback in used:
                if hasattr(callback, "release"):
                    callback.release()
            raise

    def compile(self, model, optimizer=None, metrics=(), loss="mse"):
        """With a learning rate that differs, where none is given."""
        optimizer = optimizer or keras.optimizers.SGD(0.0625 * (1 + self.rank), momentum=0.5)
        self.trainer.compile(model, optimizer, loss, metrics=list(metrics), **QUICK)
        return model

    def run(self, name, function):
        """Notes what a training says, and its collectives."""
        begin = collectives(self.rank)
        try:
            result = function(self)
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            result = {"error": "{}: {}".format(type(error).__name__, error)}
        self.results[name] = dict(result, collectives=[begin, collectives(self.rank)])


def plain(ranks):
    """Weights, statistics and logs."""
    rmse = keras.metrics.RootMeanSquaredError(name="rmse")
    model = ranks.compile(build(ranks.rank), metrics=[keras.metrics.MeanAbsoluteError(name="mae"), rmse])
    record = Record()
    history = ranks.fit(model, [record])
    found = synchronise.evaluate(
        ranks.backend, model, *validation(ranks.rank), batch_size=4, verbose=0, return_dict=True
    )
    listed = synchronise.evaluate(ranks.backend, model, *validation(ranks.rank), batch_size=4, verbose=0)
    return dict(
        names=[compat.weight_path(w) for w in model.weights],
        statistics=[compat.weight_path(w) for w in model.non_trainable_weights],
        began=record.began,
        epochs=record.epochs,
        local=record.local,
        losses=record.losses,
        logs=record.logs,
        history={name: [float(v) for v in values] for name, values in history.history.items()},
        rate=compat.get_learning_rate(model.optimizer),
        momenta=exactly(compat.get_values(v for _, v in compat.optimizer_state(model.optimizer))),
        evaluated=found,
        listed=listed,
        local_evaluation=[float(v) for v in model.evaluate(*validation(ranks.rank), batch_size=4, verbose=0)],
    )


def stopped(ranks):
    """A callback of rank 1 alone ends the training after the second epoch."""
    model = ranks.compile(build(ranks.rank, norm=False))

    def stop(epoch, logs):
        if ranks.rank == 1 and epoch == 1:
            model.stop_training = True

    history = ranks.fit(model, [keras.callbacks.LambdaCallback(on_epoch_end=stop)], val=False, epochs=5)
    return {"epochs": history.epoch, "stop": bool(model.stop_training)}


def stopped_average(ranks):
    """A callback of rank 1 alone ends the training, before SWA and behind an EarlyStopping that has done nothing."""
    model = ranks.compile(build(ranks.rank, norm=False), keras.optimizers.SGD(0.0625))

    def stop(epoch, logs):
        if ranks.rank == 1 and epoch == 2:
            model.stop_training = True

    early = keras.callbacks.EarlyStopping(monitor="loss", patience=9, restore_best_weights=True)
    swa = callbacks.SWA(2)
    ranks.fit(model, [early, keras.callbacks.LambdaCallback(on_epoch_end=stop), swa], val=False, epochs=5)
    return {"sampled": swa.sampled_epochs, "weights": exactly(compat.get_values(model.weights))}


def inside(ranks):
    """An evaluation from a callback in the middle of an epoch."""
    model = ranks.compile(build(ranks.rank), keras.optimizers.SGD(0.0))
    found = dict(seen=[], evaluated=[], kept=[])

    class Inside(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                before = exactly(compat.get_values(self.model.non_trainable_weights))
                arguments = dict(batch_size=4, verbose=0, callbacks=[See()])
                found["evaluated"].append(
                    synchronise.evaluate(ranks.backend, self.model, *validation(ranks.rank), **arguments)
                )
                after = exactly(compat.get_values(self.model.non_trainable_weights))
                found["kept"].append([before, after])

    class See(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            found["seen"].append(exactly(compat.get_values(self.model.non_trainable_weights)))

    ranks.fit(model, [Inside()], val=False, epochs=1)
    return found


def other_rates(ranks):
    """A callback sets the learning rate by a number that its rank alone has."""
    model = ranks.compile(build(ranks.rank, norm=False), keras.optimizers.SGD(0.5))

    def add(epoch, logs):
        # Falls on all ranks but 0, where it stands still: a plateau, from the second epoch on.
        logs["mine"] = -1.0 * ranks.rank * epoch

    plateau = keras.callbacks.ReduceLROnPlateau(monitor="mine", factor=0.5, patience=1, min_delta=0.0, mode="min")
    ranks.fit(model, [keras.callbacks.LambdaCallback(on_epoch_end=add), plateau], val=False, epochs=5)
    return {}


def not_a_number(ranks):
    """The loss of rank 1 is NaN in the first epoch."""
    model = ranks.compile(build(ranks.rank, norm=False))
    x, y = shard(ranks.rank)
    y[5] = np.nan if ranks.rank == 1 else y[5]
    history = ranks.fit(model, [keras.callbacks.TerminateOnNaN()], x, y, val=False, epochs=5)
    return {"epochs": history.epoch, "losses": [repr(float(v)) for v in history.history["loss"]]}


def everything(ranks):
    """Evaluation, SWA, checkpoints, EarlyStopping and an Inf on one rank."""
    folder = own_folder(ranks.rank)
    optimizer = keras.optimizers.SGD(0.0625, momentum=0.5)
    model = build(ranks.rank)
    ranks.trainer.loss_scale = "dynamic"
    ranks.trainer.compile(model, optimizer, "mse", metrics=[keras.metrics.MeanAbsoluteError(name="mae")], **QUICK)
    ranks.trainer.loss_scale = None
    x, y = shard(ranks.rank)
    y[5] = np.inf if ranks.rank == 1 else y[5]
    keras_file = "keras.h5" if compat.TF_VERSION < (2, 12) else "keras.keras"
    csv = keras.callbacks.CSVLogger(os.path.join(folder, "log.csv"))
    saver = keras.callbacks.ModelCheckpoint(os.path.join(folder, keras_file), monitor="val_loss", save_best_only=True)
    used = [
        callbacks.PlateauDecay("mae", every=2),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=10.0, verbose=1),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=2, min_delta=10.0, restore_best_weights=True),
        callbacks.SWA(2, batch_size=4, validate="both", save_best=os.path.join(folder, "best.npz")),
        csv,
        saver,
        callbacks.Checkpoint(os.path.join(folder, "checkpoints"), monitor="val_loss"),
    ]
    if importlib.util.find_spec("tensorboard"):
        used.insert(0, keras.callbacks.TensorBoard(os.path.join(folder, "board")))
    history = ranks.fit(model, used, x, y, epochs=6)
    return dict(
        epochs=history.epoch,
        history={name: [repr(float(v)) for v in values] for name, values in history.history.items()},
        weights=exactly(compat.get_values(model.weights)),
        paths=[os.path.dirname(path) == folder for path in (csv.filename, saver.filepath)],
        files=sorted(os.listdir(folder)),
    )


def averages(ranks):
    """SWA that re-estimates nothing: the statistics of all ranks are one all the same, at each end of an epoch, too."""
    found = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            state = swa.state_dict()
            found.setdefault("sums", []).append(exactly(state[key] for key in sorted(state) if key.startswith("sum_")))

        def on_test_begin(self, logs=None):
            if swa.sampled_steps:
                found.setdefault("lent", []).append(exactly(compat.get_values(self.model.weights)))

    for name, options in (
        ("off", dict(start_epoch=2, bn="off")),
        ("average", dict(start_epoch=2, bn="average")),
        ("steps", dict(unit="step", start_step=2, bn="average")),
    ):
        swa = callbacks.SWA(**options)
        model = ranks.compile(build(ranks.rank), keras.optimizers.SGD(0.0625))
        ranks.fit(model, [swa, Look()] if name == "steps" else [swa])
        found[name] = exactly(compat.get_values(model.weights))
    return found


def other_layers(ranks):
    """State that is not of batch normalization."""
    model = ranks.compile(build(ranks.rank, norm=False, counter=True), keras.optimizers.SGD(0.0625))
    seen, found = model.get_layer("counter").seen, []

    def count(epoch, logs):
        compat.set_values([seen], [np.float32(ranks.rank + 10 * epoch)])

    def look(epoch, logs):
        found.append(float(compat.get_values([seen])[0]))

    ranks.fit(model, [keras.callbacks.LambdaCallback(on_epoch_begin=count, on_epoch_end=look)], val=False)
    return {"seen": found}


def seeds(ranks):
    """States of random numbers, where Keras has them; twice, as a second training must not move the ranks apart."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(inputs)))
    ranks.compile(model, keras.optimizers.SGD(0.0625))
    found = []
    for _ in range(2):
        ranks.fit(model, [], val=False, epochs=1)
        found.append([value.tolist() for value in compat.get_values(compat.seed_variables(model))])
    return {"states": found}


def saved(ranks):
    """Rank 0 writes, all others read."""
    model = ranks.compile(build(ranks.rank), keras.optimizers.SGD(0.0625))
    path = os.path.join(own_folder(ranks.rank), "saved.h5")
    if ranks.rank:
        saving.read_only(model, path)
    else:
        saving.save(model, path)
    return {"files": sorted(os.listdir(own_folder(ranks.rank)))}


def other_epochs(ranks):
    """The ranks begin at other epochs."""
    model = ranks.compile(build(ranks.rank, norm=False))
    ranks.fit(model, [], val=False, initial_epoch=ranks.rank)
    return {}


def other_metrics(ranks):
    """One rank has a metric that the others lack."""
    model = ranks.compile(build(ranks.rank, norm=False), metrics=["mae"] if ranks.rank else ["mae", "mape"])
    ranks.fit(model, [], val=False)
    return {}


TRAININGS = dict(
    plain=plain,
    stopped=stopped,
    stopped_average=stopped_average,
    inside=inside,
    not_a_number=not_a_number,
    everything=everything,
    averages=averages,
    other_layers=other_layers,
    seeds=seeds,
    saved=saved,
    other_epochs=other_epochs,
    other_metrics=other_metrics,
    other_rates=other_rates,
)


def main():
    ranks = Ranks()
    for name in sys.argv[1:] or TRAININGS:
        ranks.run(name, TRAININGS[name])
    print("RESULT " + json.dumps(ranks.results))


if __name__ == "__main__":
    main()
