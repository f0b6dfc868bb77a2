"""Work by several threads, and how far it is."""

import io

import pytest

from ascend_keras.compat import files, tf
from ascend_keras.data import parallel, progress


def test_pool_keeps_the_order():
    assert parallel.Pool(3).map(lambda value: value * value, range(20)) == [value * value for value in range(20)]


def test_pool_stops_the_others_and_raises_the_first_error():
    pool, seen = parallel.Pool(2), []

    def work(number):
        if number == 0:
            raise KeyError("first")
        while True:
            seen.append(number)
            pool.check()

    with pytest.raises(KeyError, match="first"):
        pool.map(work, range(50))
    assert len(set(seen)) <= 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_a_bar():
    stream, now = Terminal(), iter([0.0, 0.1, 10.0, 10.0])
    bar = progress.Progress(4, stream=stream, clock=lambda: next(now))
    bar.step()
    bar.step()
    assert stream.getvalue() == ("\r[###############...............] 2 of 4 images, 0 a second, 0:00:10 left\033[K")


def test_progress_elsewhere_is_a_line_now_and_then():
    stream, now = io.StringIO(), iter([0.0, 1.0, 29.0, 40.0, 40.0])
    bar = progress.Progress(8000, stream=stream, clock=lambda: next(now))
    bar.skip(2000)
    for _ in range(3):
        bar.step(1000)
    bar.close()
    assert stream.getvalue() == "5,000 of 8,000 images, 75 a second, 0:00:40 left\n"


def test_progress_can_be_silent():
    stream = Terminal()
    bar = progress.Progress(2, show=False, stream=stream)
    bar.step(2)
    bar.close()
    assert (stream.getvalue(), bar.done) == ("", 2)


def test_threads_that_silence_tensorflow_leave_its_verbosity_as_it_was():
    logging = tf.compat.v1.logging
    before, seen = logging.get_verbosity(), []
    logging.set_verbosity(logging.INFO)
    first, second = files._silent(), files._silent()
    try:
        for step in (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None)):
            step()
            seen.append(logging.get_verbosity())
        second.__exit__(None, None, None)
        assert seen == [logging.ERROR] * 3
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity(before)
