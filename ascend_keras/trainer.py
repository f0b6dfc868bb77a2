"""NPUTrainer: the Keras verbs, on whatever device there is."""

from ascend_keras import backends, callbacks, compat, optimizers, saving
from ascend_keras.backends import npu_options
from ascend_keras.backends.base import Settings
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import cluster as clusters
from ascend_keras.log import logger


class NPUTrainer:
    """Runs plain tf.keras training on an Ascend NPU, or on this host.

    Creating it opens the device, so create it before the first variable. Use it as a context manager, or call `close`.

    Args:
        backend: "auto" (an NPU if one can be had, else the host, and says so), "npu" (an NPU or an error), "host", or
            the name of a backend: "npu_device" (TF 2.6.5), "npu_bridge" (TF 1.15).
        precision_mode: how the device may lower precision, in Ascend's words, such as "allow_mix_precision"; on the
            host it becomes a Keras dtype policy (docs/precision.md).
        precision_mode_v2: the newer knob, such as "mixed_float16". Only one of the two.
        loss_scale: None, a number >= 1 that stays fixed, "dynamic", or "auto": dynamic where float16 is computed.
        deterministic: True for reproducible operations, at a cost in speed.
        profiling: True, an output directory, or a dict of profiling options.
        dump: an existing directory for dumps of operator data, or a dict with path, step, mode, layer, data.
        overflow_dump: an existing directory for dumps of overflowing operators, or a dict with path, mode.
        mixlist: a JSON file, or a dict, of operator types that may or may not drop precision in a mixed mode.
        fusion_switch: a JSON file that switches graph fusions.
        hcom_parallel: whether gradients are reduced while others are still computed.
        op_cache: a directory in which compiled operators are kept.
        options: further options of the adapters by name (docs/options.md).
        product: "910A", "A2", "A3" or "950", to have options checked against it.
        seed: seeds Python, NumPy and TensorFlow.
        session_config: TF 1.15: a ConfigProto to start from.

    Attributes:
        model: the model compiled last, a plain Keras model.
        backend: the backend in use.

    Raises:
        ValueError: arguments, options or environment are wrong; all problems are listed.
        RuntimeError: an NPU was asked for and cannot be had, or the device was opened with other options before.
    """

    def __init__(
        self,
        backend="auto",
        *,
        precision_mode=None,
        precision_mode_v2=None,
        loss_scale="auto",
        deterministic=None,
        profiling=None,
        dump=None,
        overflow_dump=None,
        mixlist=None,
        fusion_switch=None,
        hcom_parallel=None,
        op_cache=None,
        options=None,
        product=None,
        seed=None,
        session_config=None,
    ):
        named = dict(
            precision_mode=precision_mode,
            precision_mode_v2=precision_mode_v2,
            deterministic=deterministic,
            profiling=profiling,
            dump=dump,
            overflow_dump=overflow_dump,
            mixlist=mixlist,
            fusion_switch=fusion_switch,
            hcom_parallel=hcom_parallel,
            op_cache=op_cache,
        )
        name, passed_over, settings = _resolve(backend, loss_scale, options, named, product, session_config)
        self.loss_scale = loss_scale
        self.settings = settings
        self.backend = backends.open_backend(name, settings)
        if seed is not None:
            # Not before: opening a device replaces the context that holds the seed.
            compat.set_seed(seed)
        self.model = None
        self._closed = False
        self._steps_per_execution = 1
        self._state_backend(passed_over)

    def _state_backend(self, passed_over):
        stated = ", ".join("{} {}".format(key, value) for key, value in sorted(self.describe().items()))
        logger.info(stated + "".join("; passed over {}".format(reason) for reason in passed_over))
        ignored = self.settings.options.ignored_on_host() if self.backend.adapter is None else []
        if ignored:
            logger.info("checked, but without effect on a host: %s", ", ".join(ignored))
        for warning in self.settings.options.warnings:
            logger.warning(warning)

    def describe(self):
        """What runs where: a dict of plain values, as it stands in the log, the history and the result file."""
        return dict(self.backend.describe(), loss_scale=self._loss_scale(), keras=compat.KERAS_VERSION)

    def _loss_scale(self):
        if self.loss_scale != "auto":
            return self.loss_scale
        return "dynamic" if self.backend.needs_loss_scale else None

    # --- life ---------------------------------------------------------------------------------------------------

    def scope(self):
        """A context in which to build the model and the optimizer; layers take the precision that was asked for."""
        return self.backend.scope()

    def close(self):
        """Gives the device back. Further calls do nothing."""
        if not self._closed:
            self._closed = True
            backends.close_backend(self.backend)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    # --- Keras verbs --------------------------------------------------------------------------------------------

    def compile(self, model, optimizer="rmsprop", loss=None, metrics=None, **arguments):
        """Compiles `model`, with loss scaling and the reduction over ranks around `optimizer`.

        Args:
            model: a Keras model, built in `scope()`.
            optimizer: a Keras optimizer or its name. One that is wrapped already, such as that of a loaded model, is
                not wrapped twice.
            loss, metrics, arguments: as in `model.compile`.

        Returns:
            The model.
        """
        self._steps_per_execution = self._take_steps_per_execution(arguments)
        optimizer = self.backend.assemble(keras.optimizers.get(optimizer), self._loss_scale())
        if compat.KERAS3:
            # Keras would put a loss scale of its own around ours, or in place of none.
            arguments.setdefault("auto_scale_loss", False)
        model.compile(optimizer=optimizer, loss=loss, metrics=metrics, **arguments)
        self.model = model
        return model

    def _take_steps_per_execution(self, arguments):
        steps = arguments.get("steps_per_execution") or 1
        if compat.TF1 and "steps_per_execution" in arguments:
            del arguments["steps_per_execution"]
            if steps != 1:
                logger.warning("steps_per_execution=%s: TF 1.15 runs one step per call, so 1 is used", steps)
            return 1
        return steps

    def fit(self, model, x=None, y=None, *, validation_data=None, callbacks=None, **arguments):
        """Trains; arguments and result are those of `model.fit`.

        `x` and `validation_data` may be functions of a `tf.distribute.InputContext` that return a dataset.

        Returns:
            The Keras History, with `history.backend` saying what ran where.
        """
        x, validation_data = self._dataset(x), self._dataset(validation_data)
        steps = {"train": self._steps(x, arguments, "steps_per_epoch")}
        if validation_data is not None:
            steps["test"] = self._steps(validation_data, arguments, "validation_steps")
        self.backend.before_run(self._steps_per_execution, steps)
        history = model.fit(
            x, y, validation_data=validation_data, callbacks=self._callbacks(callbacks, x, y, arguments), **arguments
        )
        history.backend = self.describe()
        return history

    def evaluate(self, model, x=None, y=None, **arguments):
        """Evaluates; arguments and result are those of `model.evaluate`."""
        x = self._dataset(x)
        self.backend.before_run(self._steps_per_execution, {"test": self._steps(x, arguments, "steps")})
        return model.evaluate(x, y, **arguments)

    def predict(self, model, x, **arguments):
        """Predicts; arguments and result are those of `model.predict`."""
        x = self._dataset(x)
        self.backend.before_run(self._steps_per_execution, {"predict": self._steps(x, arguments, "steps")})
        return model.predict(x, **arguments)

    def save(self, model, path):
        """Writes a file that loads where ascend_keras is not installed; rank 0 writes, all others return.

        Args:
            model: a Keras model.
            path: `*.npz` (arrays of `model.get_weights()`, for any stack), `*.weights.h5`, or what `model.save` of the
                Keras at hand takes.

        Returns:
            `path`.
        """
        if self.settings.cluster.is_main:
            saving.save(model, path)
        return path

    # --- parts of a run -----------------------------------------------------------------------------------------

    def _dataset(self, data):
        if not callable(data) or isinstance(data, (tf.data.Dataset, keras.utils.Sequence)):
            return data
        cluster = self.settings.cluster
        return data(
            tf.distribute.InputContext(
                num_input_pipelines=cluster.size,
                input_pipeline_id=cluster.rank or 0,
                num_replicas_in_sync=cluster.size,
            )
        )

    def _steps(self, data, arguments, name):
        if self._steps_per_execution == 1:
            return None  # any number of steps will do
        return arguments.get(name) or compat.count_steps(data, arguments.get("batch_size"))

    def _callbacks(self, user, x, y, arguments):
        user = list(user or [])
        for callback in user:
            if isinstance(callback, callbacks.SWA):
                data = x if y is None else (x, y)
                callback.set_data(data, arguments.get("steps_per_epoch"), arguments.get("batch_size"))
        ours = [callbacks.Synchronise(self.backend)] if self.settings.cluster.size > 1 else []
        # Before the user's, so that what it adds to the logs reaches them.
        return ours + [callbacks.LossScaleReport()] + user


def _resolve(request, loss_scale, options, named, product, session_config):
    """Turns the arguments of NPUTrainer into a backend's name and its settings, or raises with all that is wrong."""
    values, problems = npu_options.from_arguments(options, **named)
    problems.append(optimizers.check_loss_scale(loss_scale))
    try:
        cluster = clusters.from_environment()
    except ValueError as error:
        cluster = clusters.Cluster()
        problems.append(str(error))
    try:
        name, passed_over = backends.choose(request)
    except ValueError as error:
        name, passed_over = "host", []
        problems.append(str(error))
    adapter = backends.load(name).adapter
    option_set = npu_options.resolve(
        values, adapter=adapter, product=product, problems=[problem for problem in problems if problem]
    )
    return name, passed_over, Settings(option_set, cluster, product, session_config)
