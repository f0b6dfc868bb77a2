"""NPUTrainer on the host, on every stack; test_adapter_contract.py runs it on the adapters."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ascend_keras import NPUTrainer, backends, compat, optimizers, saving, schedules
from ascend_keras.compat import keras, tf

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

X = np.random.RandomState(0).rand(32, 3).astype("float32")
Y = (np.arange(32) % 2).astype("int32")


def build(trainer):
    with trainer.scope():
        return keras.Sequential(
            [
                keras.layers.Dense(4, activation="relu", kernel_initializer="ones", input_shape=(3,)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2),
                keras.layers.Activation("softmax", dtype="float32"),
            ]
        )


def trained(trainer, optimizer=None, **fit):
    model = build(trainer)
    trainer.compile(model, optimizer or keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    return model, trainer.fit(model, X, Y, batch_size=8, verbose=0, **fit)


class TestConstruction:
    def test_host_states_itself_in_history(self):
        with NPUTrainer("host") as trainer:
            _, history = trained(trainer, epochs=2)
        assert history.backend["backend"] == "host"
        assert history.backend["keras"] == compat.KERAS_VERSION
        assert len(history.history["loss"]) == 2

    def test_auto_says_who_was_passed_over(self, caplog, monkeypatch):
        monkeypatch.setattr("ascend_keras.log.logger.propagate", True)
        with caplog.at_level("INFO", logger="ascend_keras"):
            NPUTrainer("auto").close()
        (line,) = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
        assert "backend host" in line
        assert "passed over npu_device:" in line and "passed over npu_bridge:" in line

    def test_missing_npu_raises(self):
        with pytest.raises(RuntimeError, match="No NPU backend can be had. Received: backend='npu'"):
            NPUTrainer("npu")

    def test_all_problems_are_raised_at_once(self, monkeypatch):
        monkeypatch.setenv("RANK_SIZE", "8")
        monkeypatch.setenv("RANK_ID", "9")
        with pytest.raises(ValueError) as error:
            NPUTrainer(
                "hots",
                loss_scale=0.1,
                precision_mode="allow_mix_precison",
                dump="/no/such/folder",
                options={"hcom_paralel": True, "auto_tune_mode": "RL,GA"},
            )
        for words in (
            "Did you mean 'host'",
            "loss_scale=0.1",
            "allow_mix_precison",
            "/no/such/folder",
            "hcom_parallel",
            "aoe_mode",
            "RANK_ID must be below RANK_SIZE",
        ):
            assert words in str(error.value)

    @pytest.mark.parametrize(
        "arguments, words",
        [
            ({"precision_mode": "force_fp16", "precision_mode_v2": "fp16"}, ["precision_mode", "precision_mode_v2"]),
            ({"options": {"modify_mixlist": __file__}}, ["modify_mixlist", "precision_mode"]),
            ({"options": {"enable_dump": True}}, ["enable_dump", "dump_path"]),
            ({"options": {"precision_mod": "fp16"}}, ["precision_mod", "precision_mode"]),
            ({"overflow_dump": "/proc/version"}, ["/proc/version"]),
        ],
    )
    def test_each_mistake_names_value_and_remedy(self, arguments, words):
        with pytest.raises(ValueError) as error:
            NPUTrainer("host", **arguments)
        for word in words:
            assert word in str(error.value)

    def test_unwritable_folder_is_named(self, tmp_path):
        folder = tmp_path / "dumps"
        folder.mkdir()
        folder.chmod(0o500)
        with pytest.raises(ValueError) as error:
            NPUTrainer("host", dump=str(folder))
        assert str(folder) in str(error.value) and "writ" in str(error.value)

    def test_unknown_argument_is_a_type_error(self):
        with pytest.raises(TypeError, match="precision"):
            NPUTrainer("host", precision="fp16")

    def test_closing_twice_is_harmless_and_using_it_is_refused(self):
        trainer = NPUTrainer("host")
        model = build(trainer)
        trainer.close()
        trainer.close()
        for verb in (trainer.compile, trainer.fit, trainer.evaluate, lambda model: trainer.predict(model, X)):
            with pytest.raises(RuntimeError, match="This trainer is closed.*Create a new NPUTrainer"):
                verb(model)

    @pytest.mark.parametrize("seed", ["x", -1, True, 1.5])
    def test_bad_seed_is_named(self, seed):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            NPUTrainer("host", seed=seed)

    def test_session_config_that_cannot_act_is_refused(self):
        with pytest.raises(ValueError, match="session_config"):
            NPUTrainer("host", session_config=object())

    @pytest.mark.skipif(not compat.TF1, reason="sessions are of TF 1.15")
    def test_session_config_acts_on_a_host(self):
        with NPUTrainer("host", session_config=tf.ConfigProto(inter_op_parallelism_threads=3)):
            assert compat.get_session()._config.inter_op_parallelism_threads == 3
        keras.backend.clear_session()

    def test_seed_repeats_the_run(self):
        weights = []
        for _ in range(2):
            keras.backend.clear_session()
            with NPUTrainer("host", seed=3) as trainer:
                weights.append(trained(trainer, epochs=1)[0].get_weights())
        for first, second in zip(*weights):
            np.testing.assert_array_equal(first, second)


class TestRuns:
    def test_equals_plain_keras(self):
        with NPUTrainer("host", seed=1) as trainer:
            model = build(trainer)
            start = model.get_weights()
            trainer.compile(model, keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
            trainer.fit(model, X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
            plain = build(trainer)
        plain.set_weights(start)
        plain.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        plain.fit(X, Y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        for mine, theirs in zip(model.get_weights(), plain.get_weights()):
            np.testing.assert_array_equal(mine, theirs)

    def test_evaluate_and_predict_are_keras_own(self):
        with NPUTrainer("host") as trainer:
            model, _ = trained(trainer, epochs=1)
            assert trainer.evaluate(model, X, Y, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)
            np.testing.assert_array_equal(trainer.predict(model, X), model.predict(X))

    def test_data_may_be_a_function_of_the_input_context(self):
        contexts = []

        def data(context):
            contexts.append((context.num_input_pipelines, context.input_pipeline_id, context.num_replicas_in_sync))
            return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)

        with NPUTrainer("host") as trainer:
            model = build(trainer)
            trainer.compile(model, "sgd", "sparse_categorical_crossentropy")
            history = trainer.fit(model, data, validation_data=data, epochs=1, verbose=0)
            trainer.evaluate(model, data, verbose=0)
        assert contexts == [(1, 0, 1)] * 3
        assert "val_loss" in history.history

    def test_data_may_say_its_own_steps(self):
        class Endless:
            """Batches of constants, without end, three of which are an epoch."""

            def __init__(self, steps):
                self.length = steps

            def steps(self, ranks):
                assert ranks == 1
                return self.length

            def __call__(self, context):
                return tf.data.Dataset.from_tensors((X[:4], Y[:4])).repeat()

        seen = []
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
        with NPUTrainer("host") as trainer:
            model = build(trainer)
            trainer.compile(model, "sgd", "sparse_categorical_crossentropy")
            trainer.fit(model, Endless(3), validation_data=Endless(2), epochs=2, verbose=0, callbacks=[count])
            assert seen == [0, 1, 2] * 2
            del seen[:]
            trainer.fit(model, Endless(3), steps_per_epoch=1, verbose=0, callbacks=[count])
            assert seen == [0], "an argument counts more"
            assert trainer.evaluate(model, Endless(2), verbose=0) is not None
            assert len(trainer.predict(model, Endless(2))) == 8

    def test_steps_per_execution_trains_the_same(self):
        results = []
        for steps in (1, 2):
            keras.backend.clear_session()
            with NPUTrainer("host", seed=1) as trainer:
                model = build(trainer)
                trainer.compile(
                    model, keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", steps_per_execution=steps
                )
                trainer.fit(model, X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
                results.append(model.get_weights())
        for first, second in zip(*results):
            np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)

    def test_history_tells_of_skipped_steps(self):
        x = X.copy()
        x[8] = np.inf
        with NPUTrainer("host", loss_scale="dynamic") as trainer:
            model = build(trainer)
            trainer.compile(model, keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
            before = model.get_weights()
            history = trainer.fit(model, x[8:16], Y[8:16], batch_size=8, epochs=3, shuffle=False, verbose=0)
        assert history.history["skipped_steps"] == [1, 1, 1]
        assert history.history["loss_scale"] == [16384.0, 8192.0, 4096.0]
        for index in (0, 1, 2, 3, 6, 7):  # all but the moving statistics, which Keras updates in the forward pass
            np.testing.assert_array_equal(before[index], model.get_weights()[index])

    def test_one_callback_needs_no_list(self):
        seen = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
        with NPUTrainer("host") as trainer:
            trained(trainer, epochs=2, callbacks=callback)
        assert seen == [0, 1]

    @pytest.mark.skipif(not compat.KERAS3, reason="Keras 2 unscales where Keras scaled, so own steps are right there")
    def test_own_train_step_is_warned_about(self, caplog, monkeypatch):
        monkeypatch.setattr("ascend_keras.log.logger.propagate", True)

        class Own(keras.Sequential):
            def train_step(self, data):
                return super().train_step(data)

        for loss_scale, warned in (("dynamic", True), (None, False)):
            with caplog.at_level("WARNING", logger="ascend_keras"), NPUTrainer(
                "host", loss_scale=loss_scale
            ) as trainer:
                caplog.clear()
                trainer.compile(Own([keras.layers.Dense(1)]), "sgd", "mse")
            assert ("Own has a train_step of its own" in caplog.text) is warned

    def test_skipped_steps_are_logged(self, caplog, monkeypatch):
        monkeypatch.setattr("ascend_keras.log.logger.propagate", True)
        x = X.copy()
        x[:] = np.nan
        with NPUTrainer("host", loss_scale=1024) as trainer, caplog.at_level("INFO", logger="ascend_keras"):
            model = build(trainer)
            trainer.compile(model, keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
            trainer.fit(model, x, Y, batch_size=8, epochs=1, verbose=0)
        assert "epoch 1: 4 of 4 steps skipped for overflow, loss scale now 1024" in caplog.text


class TestLossScale:
    @pytest.mark.parametrize(
        "arguments, scale",
        [
            ({}, None),
            ({"precision_mode": "allow_mix_precision"}, 32768.0),
            ({"precision_mode": "allow_mix_precision", "loss_scale": None}, None),
            ({"precision_mode": "allow_mix_precision", "loss_scale": 256}, 256.0),
            ({"precision_mode": "must_keep_origin_dtype"}, None),
            ({"precision_mode_v2": "fp16"}, 32768.0),
            ({"loss_scale": "dynamic"}, 32768.0),
            ({"loss_scale": 1024}, 1024.0),
        ],
    )
    def test_argument_becomes_scale(self, arguments, scale):
        with NPUTrainer("host", **arguments) as trainer:
            model, history = trained(trainer, epochs=1)
            if scale is None:
                # Keras 2 under a mixed policy insists on a LossScaleOptimizer; one of scale 1 scales nothing.
                assert optimizers.current_loss_scale(model.optimizer) in (None, 1.0)
                assert optimizers.skipped_steps(model.optimizer) == 0
            else:
                skipped = optimizers.skipped_steps(model.optimizer)
                if optimizers.loss_scale_of(model.optimizer) == "dynamic":
                    # In float16 a first scale of 32768 may overflow, by chance of the initial weights.
                    scale = scale / 2**skipped
                assert skipped <= 2
                assert optimizers.current_loss_scale(model.optimizer) == scale
                assert history.history["loss_scale"] == [scale]
            assert np.isfinite(model.get_weights()[0]).all()

    def test_compiling_with_another_scale_acts(self):
        with NPUTrainer("host", loss_scale="dynamic") as first:
            model, _ = trained(first, epochs=1)
        for loss_scale in (1024, None):
            with NPUTrainer("host", loss_scale=loss_scale) as trainer:
                trainer.compile(model, model.optimizer, "sparse_categorical_crossentropy")
                history = trainer.fit(model, X, Y, batch_size=8, verbose=0)
                assert history.backend["loss_scale"] == loss_scale
                assert optimizers.loss_scale_of(model.optimizer) == loss_scale

    def test_compiling_again_does_not_wrap_twice(self):
        with NPUTrainer("host", loss_scale="dynamic") as trainer:
            model, _ = trained(trainer, epochs=1)
            wrapped = model.optimizer
            trainer.compile(model, wrapped, "sparse_categorical_crossentropy")
            assert model.optimizer is wrapped
            assert not optimizers.is_loss_scaled(compat.inner_optimizer(wrapped))


SCHEDULE = schedules.WarmupCosine(0.5, total_steps=100, warmup_steps=3)
SUFFIX = ".keras" if compat.KERAS3 else ".h5"
SUFFIXES = [".keras", ".h5"] if compat.NEW_OPTIMIZERS else [SUFFIX]


class TestSaving:
    def test_weights_load_without_ascend_keras(self, tmp_path):
        with NPUTrainer("host", loss_scale="dynamic") as trainer:
            model, _ = trained(trainer, epochs=1)
            npz = trainer.save(model, str(tmp_path / "model.npz"))
            whole = trainer.save(model, str(tmp_path / ("model" + SUFFIX)))
            weights = trainer.save(model, str(tmp_path / "model.weights.h5"))
        script = (
            "import sys, numpy as np, tensorflow as tf\n"
            "npz = np.load(sys.argv[1])\n"
            "expected = [npz['weight_%05d' % i] for i in range(len(npz['names']))]\n"
            "model = tf.keras.models.load_model(sys.argv[2])\n"
            "got = [model.get_weights()]\n"
            "model.set_weights([np.zeros_like(w) for w in expected])\n"
            "model.load_weights(sys.argv[3])\n"
            "got.append(model.get_weights())\n"
            "model.fit(np.zeros((2, 3)), np.zeros(2), verbose=0)\n"
            "assert 'ascend_keras' not in sys.modules\n"
            "assert all(np.array_equal(a, b) for g in got for a, b in zip(expected, g)) and len(expected) == 8\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", script, npz, whole, weights],
            cwd=str(tmp_path),
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert result.returncode == 0, result.stderr

    @pytest.mark.parametrize("loss_scale", [None, "dynamic", 1024])
    @pytest.mark.parametrize("rate", [0.25, SCHEDULE])
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_optimizer_state_survives_save_and_load(self, tmp_path, loss_scale, rate, suffix):
        path = str(tmp_path / ("model" + suffix))
        with NPUTrainer("host", loss_scale=loss_scale, seed=0) as trainer:
            model, _ = trained(trainer, keras.optimizers.SGD(rate, momentum=0.9), epochs=2)
            trainer.save(model, path)
            again = keras.models.load_model(path)
            trainer.compile(again, again.optimizer, "sparse_categorical_crossentropy")
            inner, inner_again = compat.inner_optimizer(model.optimizer), compat.inner_optimizer(again.optimizer)
            assert compat.get_values([inner_again.iterations])[0] == 8
            assert compat.get_learning_rate(inner_again) == compat.get_learning_rate(inner)
            assert compat.has_schedule(inner_again) == (rate is SCHEDULE)
            for fit in (model, again):
                trainer.fit(fit, X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0)
        for mine, theirs in zip(model.get_weights(), again.get_weights()):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)

    def test_npz_loads_on_any_stack(self, tmp_path):
        with NPUTrainer("host") as trainer:
            model, _ = trained(trainer, epochs=1)
            other = build(trainer)
            trainer.save(model, str(tmp_path / "model.npz"))
            saving.load_weights(other, str(tmp_path / "model.npz"))
        for mine, theirs in zip(model.get_weights(), other.get_weights()):
            np.testing.assert_array_equal(mine, theirs)

    def test_weights_of_another_model_are_refused_by_name(self, tmp_path):
        with NPUTrainer("host") as trainer:
            model = build(trainer)
            trainer.save(model, str(tmp_path / "model.npz"))
            other = keras.Sequential([keras.layers.Dense(7, input_shape=(3,))])
            with pytest.raises(ValueError, match=r"8 arrays, the model 2(.|\n)*\(3, 4\) in the file, \(3, 7\) in the"):
                saving.load_weights(other, str(tmp_path / "model.npz"))

    def test_file_of_another_kind_is_refused_by_name(self, tmp_path):
        np.savez(str(tmp_path / "other.npz"), images=X)
        with NPUTrainer("host") as trainer, pytest.raises(ValueError, match=r"no weights of NPUTrainer.*other.npz"):
            saving.load_weights(build(trainer), str(tmp_path / "other.npz"))

    def test_folder_with_other_files_is_left_alone(self, tmp_path):
        (tmp_path / "metrics.csv").write_text("epoch,loss")
        with NPUTrainer("host") as trainer:
            with pytest.raises(ValueError, match=r"holds more than a SavedModel.*'metrics.csv'"):
                trainer.save(build(trainer), str(tmp_path) + os.sep)
        assert (tmp_path / "metrics.csv").read_text() == "epoch,loss"

    @pytest.mark.skipif(compat.TF1 or compat.KERAS3, reason="model.save writes SavedModel folders on TF 2 with Keras 2")
    def test_saved_model_replaces_a_saved_model(self, tmp_path):
        path = str(tmp_path / "model")
        with NPUTrainer("host") as trainer:
            model, _ = trained(trainer, epochs=1)
            for _ in range(2):
                trainer.save(model, path)
        assert os.listdir(str(tmp_path)) == ["model"]
        np.testing.assert_allclose(keras.models.load_model(path).predict(X), model.predict(X), rtol=1e-5)

    def test_failed_save_keeps_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "model.npz"
        path.write_bytes(b"old")
        with NPUTrainer("host") as trainer:
            model = build(trainer)

            def fail(*arguments, **named):
                raise OSError("disk full")

            monkeypatch.setattr(np, "savez", fail)
            with pytest.raises(OSError, match="disk full"):
                trainer.save(model, str(path))
        assert path.read_bytes() == b"old"
        assert os.listdir(str(tmp_path)) == ["model.npz"]


def test_the_users_script_runs_unchanged():
    environment = dict(os.environ, PYTHONPATH=ROOT)
    result = subprocess.run(
        [sys.executable, os.path.join(HERE, "e2e", "user_script.py")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    line = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")][-1]
    run = json.loads(line[7:])
    assert run["backend"] == "host"
    assert run["loss"][-1] < run["loss"][0] < np.log(2), "logits start at zero, and the classes can be told apart"
    assert run["accuracy"] >= 0.9
    assert "backend host" in result.stderr


def test_backends_of_other_versions_are_refused():
    wrong = "npu_bridge" if not compat.TF1 else "npu_device"
    with pytest.raises(RuntimeError, match="needs TensorFlow .*, found {}".format(tf.__version__)):
        NPUTrainer(wrong)
    assert wrong in backends.names()
