"""How the scripts of ModelZoo's AlexNet recipes take numbers out of a training's log, in Python.

`by_name` functions go by the names in a line, as the scripts of the convention do that survive any number of digits
(`awk -F "FPS:"`). `by_column` functions go by columns, as the recipe's own scripts do: they are right only where the
blanks of the format are there, that is below step 100,000 and epoch 100 and from 10,000 to 99,999.9 images a second.
"""

import re


def _lines(text, word):
    return [line for line in text.splitlines() if word in line]


def _behind(line, word, end=","):
    """The first word of what `awk -F word '{print $2}' | awk -F end '{print $1}'` prints."""
    return line.split(word, 1)[1].split(end, 1)[0].split()[0]


def fps_by_name(text):
    """The speed in the last line that has one."""
    return float(_behind(_lines(text, "FPS:")[-1], "FPS:"))


def mean_fps_by_name(text):
    """The mean speed of all lines."""
    values = [float(_behind(line, "FPS:")) for line in _lines(text, "FPS:")]
    return sum(values) / len(values)


def losses_by_name(text):
    """Total losses of all lines, as they go into the loss file."""
    return [float(_behind(line, "total_loss:")) for line in _lines(text, "total_loss:")]


def _column(line, number):
    columns = line.split()
    return columns[number - 1] if len(columns) >= number else ""


def fps_by_column(text):
    """Whole images a second: the 5th column of the last line with FPS, between colon and point; "" if not there."""
    last = _column(_lines(text, "FPS")[-1], 5)
    return (last.split(":") + [""])[1].split(",")[0].split(".")[0]


def losses_by_column(text):
    """The 9th columns of the lines with total_loss, as texts."""
    return [_column(line, 9).replace(",", "") for line in _lines(text, "total_loss")]


def top1(text):
    """Top-1 in percent: the 3rd column of the line before the last line with Finished; None without one."""
    rows = text.splitlines()
    at = [index for index, line in enumerate(rows) if "Finished" in line]
    return float(_column(rows[at[-1] - 1], 3)) if at else None


def cats_fps(text):
    """The speed in the last step line of the cats-vs-dogs recipe."""
    return float(_behind(_lines(text, "FPS")[-1], "FPS", end="\n"))


def cats_accuracy(text):
    """The last training accuracy of the cats-vs-dogs recipe, in percent."""
    return float(_behind(_lines(text, "train accuracy")[-1], "train accuracy", end="\n"))


def summary(text):
    """The three numbers of the final block, by their names."""
    names = ("Final Performance images/sec", "Final Train Accuracy", "E2E Training Duration sec")
    found = {name: re.findall("^" + re.escape(name) + r" : (\S+)$", text, re.MULTILINE) for name in names}
    return {name: float(values[-1]) for name, values in found.items() if values}


def result_file(text):
    """Keys and values of a `<CaseName>.log`, in order."""
    return dict(re.match(r"(\w+) = (.*)$", line).groups() for line in text.splitlines())
