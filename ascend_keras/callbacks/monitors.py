"""Whether a metric is better when it is greater or when it is smaller."""

MODES = ("auto", "min", "max")
_SMALLER = ("loss", "error", "mse", "mae", "mape", "msle", "crossentropy", "divergence", "perplexity")
_GREATER = ("acc", "auc", "precision", "recall", "iou", "f1", "score", "top", "similarity")


def greater_is_better(monitor, mode):
    """Whether the metric `monitor` is better when it is greater; None where mode="auto" and its name does not tell."""
    if mode != "auto":
        return mode == "max"
    smaller, greater = (any(word in monitor for word in words) for words in (_SMALLER, _GREATER))
    return None if smaller == greater else greater
