"""NPUTrainer: the Keras verbs, on whatever device there is."""

from ascend_keras import backends, callbacks, compat, optimizers, saving
from ascend_keras.backends import npu_hccl, npu_options
from ascend_keras.backends.base import RankSum, Settings
from ascend_keras.callbacks import rank_files, synchronise
from ascend_keras.callbacks.watchdog import timeout_of
from ascend_keras.compat import keras, tf
from ascend_keras.distributed import cluster as clusters
from ascend_keras.distributed import launch_marks, shards
from ascend_keras.log import logger
from ascend_keras.together import Together


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
        gradient_fusion: how gradients are grouped into all-reduces: 0 (each alone), 1 to 8 groups, fractions, or the
            last gradient of each group (docs/npu-collectives.md).
        hccl_connect_timeout: seconds in which the ranks have to find each other, 120 to 7200.
        hccl_exec_timeout: seconds that a rank waits in a collective.
        op_cache: a directory in which compiled operators are kept.
        options: further options of the adapters by name (docs/options.md).
        product: "910A", "A2", "A3" or "950", to have options checked against it.
        seed: seeds Python, NumPy and TensorFlow.
        watchdog: seconds without a step after which a run is ended, see `callbacks.Watchdog`; 0 for none, "auto" for
            600 on several ranks and none on one. The environment variable ASCEND_KERAS_WATCHDOG goes before it.
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
        gradient_fusion=None,
        hccl_connect_timeout=None,
        hccl_exec_timeout=None,
        op_cache=None,
        options=None,
        product=None,
        seed=None,
        watchdog="auto",
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
        waits = dict(
            gradient_fusion=gradient_fusion, connect_timeout=hccl_connect_timeout, exec_timeout=hccl_exec_timeout
        )
        name, passed_over, settings, patience = _resolve(
            backend, loss_scale, options, named, product, session_config, seed, watchdog, waits
        )
        self.loss_scale = loss_scale
        self.backend = backends.open_backend(name, settings)
        self._ranks = Together(self.backend, patience, dict(loss_scale=self._loss_scale(), seed=seed))
        self.model = None
        self._closed = False
        self._set_seed(seed)
        self._state_backend(passed_over)
        launch_marks.mark_started()

    def _set_seed(self, seed):
        # Not before the device is open: opening it replaces the context that holds the seed.
        if seed is None and self.settings.options.get("deterministic") and not compat.has_seed():
            seed = 0
            logger.info("deterministic without a seed: seed=0 is set")
        if seed is not None:
            compat.set_seed(seed)

    @property
    def settings(self):
        """The checked options, the ranks, the product."""
        return self.backend.settings

    def _state_backend(self, passed_over):
        stated = ", ".join("{} {}".format(key, value) for key, value in sorted(self.describe().items()))
        logger.info(stated + "".join("; passed over {}".format(reason.rstrip(".")) for reason in passed_over))
        options, hccl = self.settings.options, self.settings.hccl
        ignored = options.ignored_on_host() + sorted(hccl.given()) if self.backend.adapter is None else []
        if ignored:
            logger.info("checked, but without effect on a host: %s", ", ".join(ignored))
        for warning in list(options.warnings) + list(hccl.notices):
            logger.warning(warning)

    def describe(self):
        """What runs where: a dict of plain values, as it stands in the log, the history and the result file."""
        return dict(self.backend.describe(), loss_scale=self._loss_scale(), keras=compat.KERAS_VERSION)

    def _loss_scale(self, optimizer=None):
        if self.loss_scale != "auto":
            return self.loss_scale
        if optimizer is not None and optimizers.is_loss_scaled(optimizer):
            return optimizers.loss_scale_of(optimizer)  # the user has decided already
        return "dynamic" if self.backend.needs_loss_scale else None

    def _check_open(self):
        if self._closed:
            raise RuntimeError("This trainer is closed and has given its device back. Create a new NPUTrainer.")

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

    def compile(self, model, optimizer="rmsprop", loss=None, metrics=None, *, scale_learning_rate=None, **arguments):
        """Compiles `model`, with loss scaling and the reduction over ranks around `optimizer`.

        Args:
            model: a Keras model, built in `scope()`.
            optimizer: a Keras optimizer or its name. One that is wrapped already, such as that of a loaded model, is
                not wrapped twice.
            loss, metrics, arguments: as in `model.compile`.
            scale_learning_rate: None, or what the learning rate is multiplied by on several ranks: "linear", their
                number; "sqrt", its root (see `optimizers.scale_learning_rate`).

        Returns:
            The model.
        """
        self._check_open()
        if compat.TF1 and arguments.pop("steps_per_execution", 1) not in (None, 1):
            logger.warning("steps_per_execution: TF 1.15 runs one step per call, so 1 is used")
        optimizer = keras.optimizers.get(optimizer)
        optimizers.scale_learning_rate(optimizer, self.settings.cluster.size, scale_learning_rate)
        optimizer = self.backend.assemble(optimizer, self._loss_scale(optimizer))
        if compat.KERAS3:
            # Keras would put a loss scale of its own around ours, or in place of none.
            arguments.setdefault("auto_scale_loss", False)
        arguments = self.backend.compile_arguments(arguments)
        if optimizers.is_loss_scaled(optimizer) and compat.overrides_train_step(model):
            logger.warning(
                "%s has a train_step of its own: on Keras 3 it has to call self.optimizer.scale_loss(loss) before the "
                "gradients, or they are divided by a scale that the loss never had; or use loss_scale=None",
                type(model).__name__,
            )
        model.compile(optimizer=optimizer, loss=loss, metrics=metrics, **arguments)
        self.model = model
        return model

    def fit(self, model, x=None, y=None, *, validation_data=None, callbacks=None, repair_bn=False, **arguments):
        """Trains; arguments and result are those of `model.fit`.

        `x` and `validation_data` may be functions of a `tf.distribute.InputContext` that return a dataset; one with a
        method `steps(ranks)`, as `data.images` makes them, says the length of an epoch itself.

        On several ranks each takes its part of the data (docs/ranks.md), `batch_size` and steps are those of one rank,
        and the numbers in the logs those of all.

        Args:
            repair_bn: with a callback of keras-swa: whether to re-estimate batch normalization when training ends,
                which keras-swa leaves ruined.
            shard: False where the data is this rank's part already.

        Returns:
            The Keras History, with `history.backend` saying what ran where.

        Raises:
            ValueError: the ranks are not about to do the same, or their data cannot be divided; on all of them.
        """
        self._check_open()
        given = dict(x=x, y=y, validation_data=validation_data)
        whole = arguments.get("shard", True)
        with self._ranks.watched() as watching:
            x, y, validation_data, arguments = shards.for_fit(
                x, y, validation_data, arguments, self.settings.cluster, self.backend.gather_over_ranks
            )
            user = _listed(callbacks)
            callbacks = watching + self._callbacks(user, repair_bn)
            steps = fit_steps(x, validation_data, arguments)
            try:
                arguments = self._ranks.begin("fit", model, x, steps, arguments, given, whole, user)
                self._ranks.fitting = True
                history = model.fit(x, y, validation_data=validation_data, callbacks=callbacks, **arguments)
            except BaseException:
                for callback in callbacks:
                    if hasattr(callback, "release"):
                        callback.release()
                raise
            finally:
                self._ranks.fitting = False
            # No rank may look for a checkpoint that rank 0 is still writing.
            self._ranks.all_or_none(lambda: None)
        history.backend = dict(self.describe(), loss_scale=optimizers.loss_scale_of(model.optimizer))
        return history

    def evaluate(self, model, x=None, y=None, *, callbacks=None, **arguments):
        """Evaluates; arguments and result are those of `model.evaluate`.

        On several ranks each takes its part of the data, and every example counts once in the result of all.
        """
        self._check_open()
        given = dict(x=x, y=y)
        whole = arguments.get("shard", True)
        with self._ranks.watched() as watching:
            cluster = self.settings.cluster
            x, y, arguments = shards.for_evaluate(x, y, arguments, cluster, self.backend.gather_over_ranks)
            steps = {"test": known_steps(x, arguments)}
            arguments = self._ranks.begin("evaluate", model, x, steps, arguments, given, whole)
            arguments["callbacks"] = watching + _listed(callbacks)
            if cluster.size > 1:
                return synchronise.evaluate(self.backend, model, x, y, **arguments)
            return model.evaluate(x, y, **arguments)

    def predict(self, model, x, *, callbacks=None, **arguments):
        """Predicts; arguments and result are those of `model.predict`. Every rank predicts all."""
        self._check_open()
        given = dict(x=x)
        whole = arguments.get("shard", True)
        with self._ranks.watched() as watching:
            x, arguments = shards.for_predict(x, arguments, self.settings.cluster, self.backend.gather_over_ranks)
            steps = {"predict": known_steps(x, arguments)}
            arguments = self._ranks.begin("predict", model, x, steps, arguments, given, whole)
            return model.predict(x, callbacks=watching + _listed(callbacks), **arguments)

    def save(self, model, path):
        """Writes a file that loads where ascend_keras is not installed. To be called on all ranks: rank 0 writes, all
        return when it is there.

        Args:
            model: a Keras model.
            path: `*.npz` (arrays of `model.get_weights()`, for any stack), `*.weights.h5`, or what `model.save` of the
                Keras at hand takes.

        Returns:
            `path`.
        """
        write = saving.save if self.settings.cluster.is_main else saving.read_only
        with self._ranks.watched():
            self._ranks.all_or_none(lambda: write(model, path))
        return path

    # --- parts of a run -----------------------------------------------------------------------------------------

    def _callbacks(self, user, repair_bn):
        user = list(user)
        cluster = self.settings.cluster
        if any(map(callbacks.is_keras_swa, user)):
            user.append(callbacks.KerasSWARepair(repair_bn))
        elif repair_bn:
            raise ValueError(
                "repair_bn repairs what keras-swa leaves behind. Received: repair_bn=True, callbacks {}, none of "
                "keras-swa. Leave it out.".format([type(callback).__name__ for callback in user])
            )
        for callback in user:
            if hasattr(callback, "set_ranks"):
                callback.set_ranks(RankSum(self.backend) if cluster.size > 1 else None, cluster.is_main)
            if hasattr(callback, "set_backend"):
                callback.set_backend(self.backend.name)
        # Before the user's, so that what it adds to the logs reaches them.
        listed = [callbacks.LossScaleReport()] + user
        return rank_files.for_ranks(listed, self.backend) if cluster.size > 1 else listed


def _listed(callbacks):
    return [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or [])


def known_steps(data, arguments, steps="steps", batch_size="batch_size"):
    """Steps of one pass over `data` under the arguments of a Keras verb; None where Keras alone will know."""
    return arguments.get(steps) or compat.count_steps(data, arguments.get(batch_size) or arguments.get("batch_size"))


def fit_steps(x, validation_data, arguments):
    """Steps of each phase of a fit, as `Backend.before_run` takes them."""
    split = arguments.get("validation_split") or 0.0
    if split and validation_data is None:
        samples = compat.count_steps(x, 1)
        trained = int(samples * (1.0 - split))  # as Keras cuts
        batch_size = arguments.get("batch_size") or 32
        tested = -(-(samples - trained) // (arguments.get("validation_batch_size") or batch_size))
        return {
            "train": arguments.get("steps_per_epoch") or -(-trained // batch_size),
            "test": arguments.get("validation_steps") or tested,
        }
    steps = {"train": known_steps(x, arguments, "steps_per_epoch")}
    if validation_data is not None:
        steps["test"] = known_steps(validation_data, arguments, "validation_steps", "validation_batch_size")
    return steps


def _resolve(request, loss_scale, options, named, product, session_config, seed, patience, waits):
    """Turns the arguments of NPUTrainer into a backend's name and its settings, or raises with all that is wrong."""
    values, problems = npu_options.from_arguments(options, **named)
    problems.append(optimizers.check_loss_scale(loss_scale))
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32):
        problems.append("seed must be a whole number in [0, 2**32). Received: seed={!r}.".format(seed))
    if session_config is not None and compat.TF1 and not isinstance(session_config, tf.ConfigProto):
        problems.append("session_config must be a tf.ConfigProto. Received: {!r}.".format(session_config))
    try:
        cluster = clusters.from_environment()
    except ValueError as error:
        cluster = clusters.Cluster()
        problems.append(str(error))
    try:
        patience = timeout_of(patience, cluster.size)
    except ValueError as error:
        problems.append(str(error))
    try:
        name, passed_over = backends.choose(request)
    except ValueError as error:
        name, passed_over = "host", []
        problems.append(str(error))
    adapter = backends.load(name).adapter
    hccl, found = npu_hccl.resolve(**waits, options=values, adapter=adapter, product=product, ranks=cluster.size)
    problems = [problem for problem in problems if problem] + found
    option_set = npu_options.resolve(values, adapter=adapter, product=product, problems=problems)
    return name, passed_over, Settings(option_set, cluster, product, session_config, hccl), patience
