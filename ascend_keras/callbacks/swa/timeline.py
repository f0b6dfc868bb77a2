"""When a sample is due and how high the learning rate is."""

from ascend_keras.callbacks.swa import rates


class Timeline:
    """The plan of a training, in epochs or in steps, both counted from 0.

    Args:
        settings: the arguments of SWA.
        steps: steps of an epoch, None as long as they are unknown.
        initial: the optimizer's learning rate before averaging; None, as `low` and `high`, where it is a schedule.
    """

    def __init__(self, settings, steps, initial):
        self._settings = settings
        self.steps = steps
        self.initial = initial
        self.low, self.high = _rates(settings, initial)
        self._start = settings.start_step - 1 if settings.start_step else None

    def begin_epoch(self, epoch, step):
        """Learns at which step an epoch begins, where averaging starts with an epoch and goes by steps."""
        first = self._settings.start_epoch
        if self._settings.per_step and self._start is None and first is not None and epoch >= first - 1:
            self._start = step

    @property
    def start(self):
        """The first epoch, or step, of averaging; None as long as it is unknown."""
        if self._settings.per_step:
            known = self._start is None and self._settings.start_epoch is not None and self.steps
            return (self._settings.start_epoch - 1) * self.steps if known else self._start
        return self._settings.start_epoch - 1

    def due(self, position):
        """Whether a sample is due at the end of an epoch, or a step."""
        if self.start is None or position < self.start:
            return False
        offset = position - self.start
        if self._settings.cyclic and self._settings.sample_at == "cycle_end":
            offset += 1
        return offset % self._settings.swa_freq == 0

    def first_sample(self):
        """The position of the first sample."""
        at_end = self._settings.cyclic and self._settings.sample_at == "cycle_end"
        return None if self.start is None else self.start + (self._settings.swa_freq - 1 if at_end else 0)

    def late_problems(self, epoch, step):
        """Why a training without a state cannot begin with this epoch and step: a list of sentences."""
        first = self.first_sample()
        late = first is not None and (step if self._settings.per_step else epoch) > first
        if self._settings.per_step and not self.steps:
            late = epoch > 0  # nobody knows how many steps there were
        if not late or self._settings.on_missing_state == "restart":
            return []
        return [
            "Training starts after the first sample was due, which is not there. Received: initial_epoch={}, {}. Load "
            "the state of the earlier training (load_state_dict), or give on_missing_state='restart'.".format(
                epoch, self._settings.start_text
            )
        ]

    def rate(self, epoch, batch, step):
        """The learning rate of a step, or None where it is to be left alone.

        Args:
            epoch: the epoch.
            batch: the step, counted in the epoch.
            step: the step, counted in the training.
        """
        position, freq = (step, self._settings.swa_freq) if self._settings.per_step else (epoch, None)
        if self._settings.lr_schedule == "manual" or self.start is None:
            return None
        if position < self.start or not self._settings.cyclic:
            return rates.approach(min(position, self.start), self.start, self.initial, self.low)
        if freq:
            return rates.cycle((step - self.start) % freq, freq, self.low, self.high)
        length = self._settings.swa_freq * self.steps
        within = (epoch - self.start) % self._settings.swa_freq * self.steps + batch
        # Should an epoch be longer than the one before it, it goes on at the lowest rate.
        return rates.cycle(min(within, length - 1), length, self.low, self.high)

    def changes_within(self, epoch):
        """Whether the learning rate changes from step to step in this epoch."""
        if self._settings.lr_schedule == "manual":
            return False
        return self._settings.per_step or (self._settings.cyclic and epoch >= self.start)

    def problems(self, epochs, steps_per_call):
        """What is wrong with the plan for a training of so many epochs: a list of sentences."""
        if self._settings.per_step:
            return self._step_problems(epochs, steps_per_call)
        return self._epoch_problems(epochs, steps_per_call)

    def _epoch_problems(self, epochs, steps_per_call):
        settings, found = self._settings, []
        received = " Received: start_epoch={}, swa_freq={}, epochs={}.".format(
            settings.start_epoch, settings.swa_freq, epochs
        )
        if settings.start_epoch >= epochs:
            found.append("`start_epoch` must be below the number of epochs." + received)
        elif not any(self.due(epoch) for epoch in range(epochs)):
            found.append("No cycle of `swa_freq` epochs ends before the training does." + received)
        if settings.cyclic and settings.start_epoch == 1 and self.steps is None:
            found.append(
                "A cyclic schedule from the first epoch on must know its length. Received: start_epoch=1, "
                "steps_per_epoch=None. Give fit steps_per_epoch=."
            )
        if settings.cyclic and steps_per_call > 1:
            found.append(_too_coarse("lr_schedule='cyclic'", steps_per_call))
        return found

    def _step_problems(self, epochs, steps_per_call):
        settings, found = self._settings, []
        first, total = self.first_sample(), self.steps * epochs if self.steps else None
        if first is not None and total is not None and first >= total:
            found.append(
                "No sample is due before the training ends. Received: first sample after step {}, {} steps.".format(
                    first + 1, total
                )
            )
        if settings.start_step is None and settings.lr_schedule != "manual" and self.steps is None:
            found.append(
                "The learning rate before averaging depends on the step at which it starts. Received: start_step=None, "
                "steps_per_epoch=None. Give start_step, or fit steps_per_epoch=."
            )
        if steps_per_call > 1 and settings.lr_schedule != "manual":
            found.append(_too_coarse("lr_schedule={!r}".format(settings.lr_schedule), steps_per_call))
        return found + self._boundary_problems(steps_per_call)

    def _boundary_problems(self, steps_per_call):
        first = self.first_sample()
        numbers = [self._settings.swa_freq, self.steps or 0] + ([] if first is None else [first + 1])
        if all(number % steps_per_call == 0 for number in numbers):
            return []
        text = "Samples are due between two calls of the device. Received: first sample after step {}, swa_freq={}, "
        text += "{} steps an epoch, steps_per_execution={}. Make all of them multiples of the last."
        first = "unknown" if first is None else first + 1
        return [text.format(first, self._settings.swa_freq, self.steps, steps_per_call)]


def known_steps(params):
    """Steps of an epoch, from the parameters that Keras gives a callback; None where it does not know them."""
    steps, samples = params.get("steps"), params.get("samples")
    if steps is None and samples and params.get("batch_size"):
        steps = -(-samples // params["batch_size"])
    return steps


def _rates(settings, initial):
    """The lowest and the highest learning rate of averaging."""
    if initial is None:
        return None, None
    low = 0.1 * initial if settings.swa_lr == "auto" else settings.swa_lr
    high = low + (initial - low) * 0.25 if settings.swa_lr2 == "auto" else settings.swa_lr2
    return low, 10 * low if high is None else high


def _too_coarse(what, steps_per_call):
    return (
        "The learning rate changes from step to step, and can be set between two calls of the device only. Received: "
        "{}, steps_per_execution={}. Use steps_per_execution=1, or lr_schedule='manual' with a schedule of "
        "ascend_keras.schedules.".format(what, steps_per_call)
    )
