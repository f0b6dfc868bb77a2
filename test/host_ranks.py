"""What test_host_engine.py runs on every rank, and on one rank in its own process to compare."""

import json
import sys

import numpy as np

from ascend_keras import NPUTrainer, compat, optimizers
from ascend_keras.compat import keras, tf

RATE = 0.5


def hexed(arrays):
    """The bits of arrays as text."""
    return [np.ascontiguousarray(array).tobytes().hex() for array in arrays]


def floats(arrays):
    """Arrays as flat lists of floats."""
    return [np.asarray(array, np.float64).ravel().tolist() for array in arrays]


# --- broadcast --------------------------------------------------------------------------------------------------------


def values_of_every_dtype(rank):
    """Arrays by name, different on every rank; Inf, NaN, the largest numbers and empty ones among them."""
    special = [np.nan, -np.inf, 1e-42, -0.0] if rank == 0 else [1.0, 2.0, 3.0, 4.0]
    return {
        "float16": np.array([1.0009765625 + rank, 65504.0, np.inf, 6e-8], np.float16),
        "float32": np.array(special, np.float32),
        "float64": np.array([[1.0 + 2.0**-52 * (rank + 1), 1e300]], np.float64),
        "int32": np.array([-(2**31), 2**31 - 1 - rank], np.int32),
        "int64": np.array([2**53 + 1 + rank, -(2**63)], np.int64),
        "uint8": np.array([255 - rank, 0, 7], np.uint8),
        "bool": np.array([rank == 0, True, rank != 0]),
        "scalar": np.array(3.25 - rank, np.float32),
        "step": np.array(7 + rank, np.int64),
        "empty": np.zeros([0, 3], np.float32),
    }


def make_variables(arrays):
    if compat.TF1:
        return [keras.backend.variable(value, dtype=value.dtype.name) for value in arrays]
    return [tf.Variable(value) for value in arrays]


def broadcast(backend, rank):
    arrays = values_of_every_dtype(rank)
    variables = make_variables(arrays.values())
    backend.synchronise(variables)
    return dict(zip(arrays, hexed(compat.get_values(variables))))


# --- gradients --------------------------------------------------------------------------------------------------------


def known_gradients(rank):
    """Gradients in fractions of powers of two, so that their mean over 2 or 4 ranks is exact."""
    random = np.random.RandomState(100 + rank)
    shapes = {"small": (3,), "matrix": (40, 50), "scalar": (), "half": (5,), "double": (2, 2)}
    return {name: random.randint(-64, 64, shape) / 16.0 for name, shape in shapes.items()}


DTYPES = {"half": "float16", "double": "float64"}
ROWS = 6


def rows_of(rank):
    """Rows of the table that a rank looks up; one twice."""
    return [rank % ROWS, 2, 2]


def step(optimizer, loss, variables):
    """One step of `optimizer` for a loss that is made by a function, in a graph."""
    if compat.TF1:
        updates = optimizer.get_updates(loss(), variables)
        compat.get_session().run(tf.group(updates))
        return

    def run():
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables))

    if compat.KERAS3:
        optimizer.build(variables)
    tf.function(run)()


def gradients(backend, rank):
    """What one step of SGD makes of zeros, for dense and sparse gradients of several formats."""
    known = known_gradients(rank)
    names = sorted(known)
    arrays = [np.zeros(known[name].shape, DTYPES.get(name, "float32")) for name in names]
    variables = make_variables(arrays + [np.zeros([ROWS, 2], np.float32)])
    unused = [] if compat.TF1 else make_variables([np.ones([2], np.float32)])

    def loss():
        terms = [tf.reduce_sum(v * tf.constant(known[n], v.dtype.base_dtype)) for n, v in zip(names, variables)]
        looked_up = tf.gather(variables[-1], rows_of(rank))
        return tf.add_n([tf.cast(term, tf.float64) for term in terms + [tf.reduce_sum(looked_up) * (rank + 1.0)]])

    optimizer = backend.assemble(keras.optimizers.SGD(RATE), None)
    step(optimizer, loss, variables + unused)
    results = dict(zip(names + ["table"], floats(compat.get_values(variables))))
    return dict(results, unused=floats(compat.get_values(unused)))


CLIPS = [{"clipnorm": 1.0}, {"clipvalue": 0.75}] + ([] if compat.TF1 else [{"global_clipnorm": 2.0}])


def clipped(backend, rank, size):
    """The same with gradients that point elsewhere on each rank, clipped, with and without loss scaling."""
    results = []
    for scale in (None, 1024.0):
        for limit in CLIPS:
            (variable,) = make_variables([np.zeros([size], np.float32)])
            gradient = tf.constant(np.eye(size)[rank] * 8.0, tf.float32)
            optimizer = backend.assemble(keras.optimizers.SGD(RATE, **limit), scale)
            step(optimizer, scaled(optimizer, variable, gradient), [variable])
            results += floats(compat.get_values([variable]))
    return results


def scaled(optimizer, variable, gradient):
    """The loss whose gradient is `gradient`, as a training step of the Keras at hand hands it to the optimizer."""

    def loss():
        value = tf.reduce_sum(variable * gradient)
        if not optimizers.is_loss_scaled(optimizer) or not compat.KERAS3:
            return value
        return optimizer.scale_loss(value)

    return loss


def twin_gradients(rank):
    """Those of two optimizers, of one form."""
    return np.array([[1.0, 2.0, 4.0], [-8.0, 0.5, 16.0]], np.float32) * (rank + 1)


def twins(backend, rank):
    """What each of two optimizers makes of zeros in two steps; on TF 2 both are in one function."""
    variables = make_variables([np.zeros([3], np.float32) for _ in range(2)])
    made = [backend.assemble(keras.optimizers.SGD(RATE), None) for _ in variables]
    terms = list(zip(made, variables, [tf.constant(gradient) for gradient in twin_gradients(rank)]))
    if compat.TF1:
        updates = [tf.group(one.get_updates(tf.reduce_sum(v * gradient), [v])) for one, v, gradient in terms]
        for number in (0, 1, 1, 0):
            compat.get_session().run(updates[number])
    else:

        def run():
            for one, variable, gradient in terms:
                one.apply_gradients([(tf.identity(gradient), variable)])

        for one, variable, _ in terms if compat.KERAS3 else []:
            one.build([variable])
        both = tf.function(run)
        both(), both()
    return floats(compat.get_values(variables))


# --- trainings --------------------------------------------------------------------------------------------------------


def data(count=64):
    random = np.random.RandomState(5)
    x = random.randn(count, 6).astype("float32")
    return x, np.tanh(x.dot(random.randn(6, 2))).astype("float32")


def model(rank=0, cls=keras.Sequential):
    """A small model, whose weights differ from rank to rank as the seeds of careless users do."""
    random = np.random.RandomState(9 + rank)
    layers = [keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(2)]
    if cls is keras.Sequential:
        made = keras.Sequential([keras.Input([6])] + layers)
    else:
        inputs = keras.Input([6])
        made = cls(inputs, layers[1](layers[0](inputs)))
    made.set_weights([random.uniform(-0.5, 0.5, weight.shape) for weight in made.get_weights()])
    return made


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


def train(trainer, optimizer, rank=0, size=1, made=None, loss_scale=None, epochs=2, **arguments):
    """Trains with a global batch of 16, and returns the model."""
    made = prepared(trainer, made or model(rank), OPTIMIZERS[optimizer](), loss_scale, **arguments)
    x, y = data()
    made.fit(x[rank::size], y[rank::size], batch_size=16 // size, epochs=epochs, shuffle=False, verbose=0)
    return made


def prepared(trainer, made, optimizer, loss_scale=None, **arguments):
    """The model compiled by the trainer, with the variables of rank 0; what its `fit` adds is not for these tests."""
    trainer.loss_scale = loss_scale
    trainer.compile(made, optimizer, "mse", **trainer.backend.compile_arguments(arguments))
    compat.build_optimizer(made)
    trainer.backend.synchronise(made.weights + [variable for _, variable in compat.optimizer_state(made.optimizer)])
    return made


class OwnStep(keras.Model):
    """A training step of the user's own."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        found = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(found, self.trainable_variables))
        return {"loss": loss}


def variants(trainer, rank, size):
    """Weights after training with SGD in the ways that TF 2 has."""
    ways = {"steps": {"steps_per_execution": 2}, "eager": {"run_eagerly": True}, "own": {"made": model(rank, OwnStep)}}
    return {name: train(trainer, "sgd", rank, size, **way).get_weights() for name, way in ways.items()}


def accumulated(trainer, rank, size):
    """Keras 3: weights after training with gradients added up over two steps."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2)
    made = prepared(trainer, model(rank), optimizer)
    x, y = data()
    made.fit(x[rank::size], y[rank::size], batch_size=16 // size, epochs=1, shuffle=False, verbose=0)
    return made.get_weights()


def compiled_again(trainer, rank, size):
    """Weights after an epoch, and another for which rank 0 alone has compiled a second model and then the same one."""
    x, y = data()
    made = prepared(trainer, model(rank), keras.optimizers.SGD(0.1))
    for epoch in range(2):
        if epoch and rank == 0:
            trainer.compile(model(), keras.optimizers.SGD(0.1), "mse")
            trainer.compile(made, keras.optimizers.SGD(0.1), "mse")
            compat.build_optimizer(made)
        made.fit(x[rank::size], y[rank::size], batch_size=16 // size, epochs=1, shuffle=False, verbose=0)
    return made.get_weights()


def overflow(trainer, rank):
    """Four steps, in the second of which rank 1 alone meets a number beyond float32."""
    made = keras.Sequential([keras.layers.Dense(1, use_bias=False, input_shape=(1,), kernel_initializer="ones")])
    prepared(trainer, made, keras.optimizers.SGD(0.25), "dynamic")
    x, y = overflow_data(rank)
    made.fit(x, y, batch_size=1, epochs=1, shuffle=False, verbose=0)
    optimizer = made.optimizer
    return {
        "weights": floats(made.get_weights()),
        "bits": hexed(made.get_weights()),
        "skipped": optimizers.skipped_steps(optimizer),
        "scale": optimizers.current_loss_scale(optimizer),
        "iterations": int(compat.get_values([optimizer.iterations])[0]),
    }


def overflow_data(rank):
    x = np.array([[1.0], [2.0], [0.5], [1.5]], np.float32) + 0.25 * rank
    if rank == 1:
        x[1] = 3e38
    return x, np.full([4, 1], 3.0, np.float32)


def uneven(trainer, rank):
    """Last batches of other sizes on each rank, for which TF 2 traces the step again on one of them only."""
    made = prepared(trainer, model(rank), OPTIMIZERS["sgd"]())
    x, y = data(12)
    count = 12 - rank
    made.fit(x[:count], y[:count], batch_size=4, epochs=2, verbose=0)
    return hexed(made.get_weights())


def describe_optimizer(made):
    """What the reduction must not change."""
    optimizer = made.optimizer
    compat.set_learning_rate(optimizer, 0.03125)
    return {
        "class": type(compat.inner_optimizer(optimizer)).__name__,
        "rate": compat.get_learning_rate(optimizer),
        "steps": int(compat.get_values([optimizer.iterations])[0]),
        "state": hexed(compat.get_values([variable for _, variable in compat.optimizer_state(optimizer)])),
    }


def saved(made, folder, rank):
    """Whether a plain Keras loads the model, with its optimizer."""
    if rank:
        return None
    path = "{}/model.{}".format(folder, "keras" if compat.KERAS3 else "h5")
    made.save(path)
    optimizer = keras.models.load_model(path).optimizer
    return [type(optimizer).__name__, optimizers.is_distributed(optimizer)]


def raised(function, *args):
    """The error of a call as text."""
    try:
        function(*args)
    except (ValueError, RuntimeError) as error:
        return "{}: {}".format(type(error).__name__, error)
    return None


def report(value):
    print("RESULT " + json.dumps(value))
    sys.stdout.flush()


def new_trainer(**arguments):
    trainer = NPUTrainer("host", **arguments)
    cluster = trainer.settings.cluster
    return trainer, cluster.rank, cluster.size
