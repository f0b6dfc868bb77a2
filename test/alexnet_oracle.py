"""The AlexNets and one step of their training in NumPy, float64 throughout, from the formulas alone."""

import numpy as np

# Zeros on each side, stride, whether a pooling follows; of the five convolutions of the single tower.
ONE_TOWER = ((2, 4, True), (2, 1, True), (1, 1, False), (1, 1, False), (1, 1, True))


# --- operations, forward and backward -------------------------------------------------------------------------------


def windows(x, size, stride):
    """(n, h, w, c) to (n, h', w', size, size, c), a view."""
    n, h, w, c = x.shape
    s = x.strides
    shape = (n, (h - size) // stride + 1, (w - size) // stride + 1, size, size, c)
    return np.lib.stride_tricks.as_strided(x, shape, (s[0], s[1] * stride, s[2] * stride, s[1], s[2], s[3]))


def pad(x, zeros):
    return np.pad(x, ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0)), "constant")


def conv(x, kernel, bias, stride=1, zeros=0):
    return np.tensordot(windows(pad(x, zeros), kernel.shape[0], stride), kernel, 3) + bias


def conv_backward(x, kernel, dy, stride, zeros):
    """Gradients with respect to x, kernel and bias."""
    size, x = kernel.shape[0], pad(x, zeros)
    dkernel = np.tensordot(windows(x, size, stride), dy, ((0, 1, 2), (0, 1, 2)))
    dx, (height, width) = np.zeros(x.shape), [length * stride for length in dy.shape[1:3]]
    for i in range(size):
        for j in range(size):
            dx[:, i : i + height : stride, j : j + width : stride] += np.tensordot(dy, kernel[i, j], ((3,), (1,)))
    inner = slice(zeros, -zeros or None)
    return dx[:, inner, inner], dkernel, dy.sum(axis=(0, 1, 2))


def pool(x):
    return windows(x, 3, 2).max(axis=(3, 4))


def pool_backward(x, dy):
    """The gradient goes to the largest of a window, which must be one."""
    dx, largest = np.zeros(x.shape), pool(x)
    height, width = [2 * length for length in dy.shape[1:3]]
    for i in range(3):
        for j in range(3):
            place = (slice(None), slice(i, i + height, 2), slice(j, j + width, 2))
            dx[place] += dy * (x[place] == largest)
    return dx


def relu(x):
    return np.maximum(x, 0)


def lrn(x, radius=5, bias=2.0, alpha=1e-4, beta=0.75):
    channels = x.shape[-1]
    sums = np.stack([(x[..., max(c - radius, 0) : c + radius + 1] ** 2).sum(axis=-1) for c in range(channels)], axis=-1)
    return x / (bias + alpha * sums) ** beta


def imagenet(x, mean=True, std=True):
    x = np.asarray(x, "f8") - (255 * np.array([0.485, 0.456, 0.406]) if mean else 0)
    return x / (255 * np.array([0.229, 0.224, 0.225])) if std else x


# --- the single tower -----------------------------------------------------------------------------------------------


def forward(x, weights):
    """Logits of normalised images, and what the layers were given: (x, z) of each, z before its ReLU."""
    pairs = list(zip(weights[::2], weights[1::2]))
    seen = []
    for (kernel, bias), (zeros, stride, pooled) in zip(pairs, ONE_TOWER):
        z = conv(x, kernel, bias, stride, zeros)
        seen.append((x, z))
        x = pool(relu(z)) if pooled else relu(z)
    x = x.reshape(len(x), -1)
    for kernel, bias in pairs[len(ONE_TOWER) :]:
        z = x @ kernel + bias
        seen.append((x, z))
        x = relu(z)
    return z, seen


def cross_entropy(logits, labels, smoothing):
    """The mean loss against 1 - e + e/K and e/K, and its gradient."""
    classes = logits.shape[1]
    targets = np.full(logits.shape, smoothing / classes)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(targets * logs).sum(axis=1).mean(), (np.exp(logs) - targets) / len(labels)


def gradients(x, labels, weights, smoothing):
    """The cross-entropy and its gradients, in the order of the weights."""
    logits, seen = forward(x, weights)
    loss, dz = cross_entropy(logits, labels, smoothing)
    found = []
    for index in reversed(range(len(seen))):
        x, kernel = seen[index][0], weights[2 * index]
        if index >= len(ONE_TOWER):
            dx, dkernel, dbias = dz @ kernel.T, x.T @ dz, dz.sum(axis=0)
        else:
            zeros, stride, _ = ONE_TOWER[index]
            dx, dkernel, dbias = conv_backward(x, kernel, dz, stride, zeros)
        found = [dkernel, dbias] + found
        if index:
            below = seen[index - 1][1]
            pooled = index <= len(ONE_TOWER) and ONE_TOWER[index - 1][2]
            dy = pool_backward(relu(below), dx.reshape(pool(below).shape)) if pooled else dx
            dz = dy * (below > 0)
    return loss, found


def margin(x, weights):
    """How near a unit or a maximum is to where rounding decides: the least |z| / std(z), and gap in a pooling."""
    least = []
    for index, (_, z) in enumerate(forward(x, weights)[1][:-1]):
        least.append(np.abs(z).min() / z.std())
        if index < len(ONE_TOWER) and ONE_TOWER[index][2]:
            inside = np.sort(windows(relu(z), 3, 2).reshape(z.shape[0], -1, 9, z.shape[3]), axis=2)
            gaps = (inside[:, :, -1] - inside[:, :, -2])[inside[:, :, -1] > 0]
            least.append(gaps.min() / z.std())
    return min(least)


class Step:
    """Nesterov momentum on cross-entropy and L2 over all weights, with the warm-up of the schedule."""

    def __init__(self, weights, peak, warmup_steps, momentum=0.9, weight_decay=1e-4, smoothing=0.1):
        self.weights = [np.asarray(weight, "f8") for weight in weights]
        self.sums = [np.zeros(weight.shape) for weight in self.weights]
        self.peak, self.warmup_steps, self.momentum = peak, warmup_steps, momentum
        self.weight_decay, self.smoothing, self.done = weight_decay, smoothing, 0

    def __call__(self, x, labels):
        """Returns total loss and cross-entropy before the step."""
        loss, found = gradients(x, labels, self.weights, self.smoothing)
        total = loss + self.weight_decay * sum((weight**2).sum() for weight in self.weights) / 2
        rate = self.peak * (self.done + 1) / self.warmup_steps
        for index, gradient in enumerate(found):
            gradient = gradient + self.weight_decay * self.weights[index]
            self.sums[index] = self.momentum * self.sums[index] + gradient
            self.weights[index] = self.weights[index] - rate * (gradient + self.momentum * self.sums[index])
        self.done += 1
        return total, loss


# --- two towers -----------------------------------------------------------------------------------------------------


def two_towers(x, named, modelzoo):
    """Logits of the network with response normalisation; `named` has (kernel, bias) by the names of the layers."""
    lower, upper = [], []
    for tower in "ab":
        y = x
        for number, stride, zeros in (("1", 4, 0), ("2", 1, 2)):
            y = conv(y, *named["conv{}_{}".format(number, tower)], stride=stride, zeros=zeros)
            y = relu(pool(lrn(y))) if modelzoo else pool(lrn(relu(y)))
        lower.append(y)
    both = np.concatenate(lower, axis=-1)
    for tower in "ab":
        y = both
        for number in "345":
            y = relu(conv(y, *named["conv{}_{}".format(number, tower)], zeros=1))
        upper.append(pool(y))
    y = np.concatenate(upper, axis=-1)
    y = y.reshape(len(y), -1)
    for name in ("dense", "dense_1"):
        y = relu(y @ named[name][0] + named[name][1])
    return y @ named["dense_2"][0] + named["dense_2"][1]
