"""Trains and evaluates one of the image recipes as its configuration says."""

import datetime
import math
import os

import common
import numpy as np
from image_recipes import feed, plan_rest, plan_steps

from ascend_keras import callbacks, checkpoint_files, compat, losses, metrics, models, optimizers, saving
from ascend_keras.backends.base import RankSum
from ascend_keras.callbacks.evaluation_log import evaluation_row
from ascend_keras.recipes import lines


class Run:
    """A training or an evaluation on the device.

    Args:
        network: name of the recipe at ModelZoo.
        trainer: an open NPUTrainer.
        config: the sections of the configuration.
        training, validation: ImageDatasets, or None where the mode needs none.
    """

    def __init__(self, network, trainer, config, training, validation):
        self.network, self.trainer, self.config = network, trainer, config
        self.training, self.validation = training, validation
        cluster = trainer.settings.cluster
        self.ranks, self.is_main = cluster.size, cluster.is_main
        images = training or validation
        self.global_batch = images.batch_size * self.ranks
        self.steps = self._plan() if training else None
        loss = dict(from_logits=True, name="cross_entropy", label_smoothing=config["loss"]["label_smoothing"])
        self.metrics = [
            metrics.Top1("top1", ties="first"),
            metrics.TopK(min(5, images.classes), "top5", ties="first"),
            metrics.SparseCategoricalCrossentropy(**loss),
        ]

    def _plan(self):
        # Without shards, too: the ranks together see as many images as there are.
        available = self.training.steps(self.ranks)
        shards = self.ranks if self.config["input"]["shard"] else 1
        evaluation = self.validation.steps(shards) if self.validation else None
        steps = plan_steps(available, one_per_call=compat.TF1, evaluation=evaluation, **self.config["length"])
        folder = checkpoint_files.Folder(self.config["checkpoint"]["folder"], None)
        newest = next(folder.whole(), None) if self.config["start"]["resume"] else None
        done = steps_done(steps, *newest[:2]) if newest else 0
        return plan_rest(steps, done) if 0 < done < steps.last else steps

    def compile(self, make_optimizer):
        """Builds the model and compiles it.

        Args:
            make_optimizer: a function of the steps of an epoch of the data that returns the optimizer.
        """
        options = dict(self.config["model"])
        classes = (self.training or self.validation).classes
        with self.trainer.scope():
            self.model = models.get(options.pop("name"), classes=classes, **options)
        loss = self.config["loss"]
        optimizers.add_weight_decay(self.model, loss["weight_decay"], loss["apply_to"])
        smoothed = losses.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=loss["label_smoothing"])
        # XLA takes longer to compile an AlexNet on a host than to run a test of it, and gains little there.
        options = dict(jit_compile=False) if compat.KERAS3 else {}
        if self.steps and not compat.TF1:
            options["steps_per_execution"] = self.steps.loop
        # An evaluation has no epochs, and never asks for a learning rate.
        optimizer = make_optimizer(self.steps.data if self.steps else 1)
        self.trainer.compile(self.model, optimizer, smoothed, weighted_metrics=self.metrics, **options)
        # TF 1.15 has given it another name.
        self.accuracy = self.metrics[0].name

    # --- training ---------------------------------------------------------------------------------------------------

    def train(self, log, own=()):
        """Trains, evaluates where the mode wants it, and writes the result.

        Args:
            log: a function of the arguments of a `StepReport` that returns the log callback.
            own: further callbacks of the recipe.
        """
        steps, checkpoint = self.steps, self._checkpoint()
        done = self._begin(checkpoint)
        counted = dict(batch_size=self.global_batch, epoch_samples=self.training.samples, initial_step=done)
        throughput, table = callbacks.Throughput(self.global_batch), self._table()
        record = callbacks.RunRecord(throughput)
        # In front, so that the logs know the last step for what it is.
        used = [callbacks.StopAtStep(steps.last, done)] if steps.stops else []
        used += [log(metric=self.metrics[2], **counted)] + list(own) + ([table] if table else [])
        if self.config["metrics_file"]:
            used.append(callbacks.MetricsFile(metric=self.metrics[2], **dict(self.config["metrics_file"], **counted)))
        used += [throughput]
        used += [record] + ([checkpoint] if self.config["checkpoint"]["write"] else [])
        history = self.trainer.fit(
            self.model,
            feed(self.training.starting_at(done), **self.config["input"]),
            epochs=steps.epochs,
            # A process that was ended behind its last step has its result to write, and no step to make.
            initial_epoch=done // steps.epoch if done < steps.last else steps.epochs,
            steps_per_epoch=steps.fit,
            verbose=2 if self.is_main else 0,
            callbacks=used,
            **self._validation(),
        )
        return self._finish(history.backend, record, table)

    def _checkpoint(self):
        options = dict(self.config["checkpoint"])
        options.pop("write")
        steps = options.pop("every_steps", None)
        if steps:
            options["every"] = max(1, math.ceil(steps / self.steps.epoch))
        return callbacks.Checkpoint(**options)

    def _begin(self, checkpoint):
        """Restores what is asked for; returns the number of steps that are done."""
        start = self.config["start"]
        if self.config["checkpoint"]["write"]:
            common.check_folder(self.config["checkpoint"]["folder"])
        if start["path"]:
            self._say(models.load_pretrained(self.model, start["path"], start["exclude"]))
        report = checkpoint.restore(self.model) if start["resume"] else None
        return steps_done(self.steps, report.epoch, report.path) if report else 0

    def _table(self):
        if self.validation is None:
            return None
        path = self.config["log"].get("path")
        samples = self.validation.samples
        return callbacks.EvaluationLog(self.metrics, samples, self.steps.epoch, self.steps.last, path)

    def _validation(self):
        if self.validation is None:
            return {}
        between, epochs = self.config["epochs_between_evals"], self.steps.epochs
        due = [epoch for epoch in range(1, epochs + 1) if epoch % between == 0 or epoch == epochs]
        return dict(validation_data=self._evaluation_feed(), validation_freq=due)

    def _finish(self, backend, record, table):
        accuracy, seen_on = record.logs[self.accuracy], "training images, while training"
        if table:
            if not table.rows or table.rows[-1].step != self.steps.last:
                # TF 1.15 does not validate in an epoch in which a training is stopped.
                self._evaluate()
                table.add(self.steps.last, self.steps.epochs)
            accuracy, seen_on = table.rows[-1].top1 / 100.0, "validation images"
        bad = self._sum(self.training.bad_images.count + (self.validation.bad_images.count if self.validation else 0))
        if bad:
            self._say("{} image(s) could not be decoded and were skipped; they are named above".format(bad))
        details = dict(accuracy_on=seen_on, steps=self.steps.last, bad_images=bad)
        if not self.is_main:
            return None
        return common.finish(self.network, self.training.batch_size, self.ranks, backend, record, accuracy, details)

    def _sum(self, count):
        """A count of all ranks together."""
        return int(self.trainer.backend.sum_over_ranks(np.array([count], np.float64))[0])

    # --- evaluation -------------------------------------------------------------------------------------------------

    def _evaluation_feed(self):
        return feed(self.validation, multiple=self.steps.loop if self.steps else 1, **self.config["input"])

    def _evaluate(self):
        self.trainer.evaluate(self.model, self._evaluation_feed(), verbose=0)

    def evaluate_checkpoints(self):
        """Evaluates every checkpoint in the folder, the oldest first, and prints the recipe's table.

        Returns:
            The `EvaluationRow`s; None where there is nothing to evaluate on.
        """
        if self.validation is None:
            return None
        folder = self.config["checkpoint"]["folder"]
        found = sorted((epoch, path) for epoch, path in checkpoint_files.Folder(folder, None).numbered())
        if not found:
            raise common.UsageError(
                "There is no checkpoint to evaluate. Received: --checkpoint_dir={}. Name the folder of a "
                "training.".format(folder)
            )
        *head, end = lines.format_evaluation([], self.validation.samples).splitlines()
        rows = []
        for epoch, path in found:
            rows.append(self._evaluate_file(epoch, path))
            # What the first evaluation warns of is out by then.
            self._write(*(head if len(rows) == 1 else []) + [lines.format_row(rows[-1])])
        self._write(end)
        return rows

    def _evaluate_file(self, epoch, path):
        saving.load_weights(self.model, path)
        self._evaluate()
        time = datetime.datetime.fromtimestamp(os.path.getmtime(path), datetime.timezone.utc)
        reduce = RankSum(self.trainer.backend) if self.ranks > 1 else None
        return evaluation_row(self.metrics, step_of(path), epoch, time, reduce)

    def _say(self, text):
        if self.is_main:
            print(text)

    def _write(self, *texts):
        for text in texts if self.is_main else ():
            callbacks.write_line(text, self.config["log"].get("path"))


def steps_done(steps, epoch, path):
    """The steps of a run that are done with its checkpoint after `epoch` epochs, at most all.

    Args:
        steps: the plan of the run, as `plan_steps` makes it.

    Raises:
        UsageError: these are no whole epochs of this run.
    """
    done, expected = step_of(path), epoch * steps.epoch
    if done < steps.last and done != expected:
        raise common.UsageError(
            "This run cannot go on exactly: the checkpoint was made inside an epoch, or with other batches or loops. "
            "Received: --resume, {0} with {1} steps done, where {2} epoch(s) of this run have {3}. Give the "
            "flags of that run, or begin with its weights: --restore_path={0} --restore_exclude= and another "
            "--output_dir.".format(path, done, epoch, expected)
        )
    return min(done, steps.last)


def step_of(path):
    """The steps that the weights in a checkpoint have been trained, as its optimizer has counted them."""
    names = checkpoint_files.read_meta(path)["variables"]["optimizer"]
    counters = [index for index, name in enumerate(names) if name.split("/")[-1] in ("iter", "iteration", "iterations")]
    with np.load(path) as file:
        return int(file["optimizer_{:05d}".format(counters[0])]) if counters else 0
