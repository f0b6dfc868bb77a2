"""Two small data sets that need no download: Gaussian blobs, and scikit-learn's handwritten digits.

Both come as NumPy arrays and are the same on every machine for the same arguments.
"""

import numpy as np


def blobs(samples=131072, held_out=200000, seed=2):
    """Points of three overlapping Gaussian clouds in the plane, and held-out points of the same clouds.

    The defaults are the data of the ModelZoo recipe SWA_ID0252 (three centres, standard deviation 2). The best
    possible classifier, which names the nearest centre, is right for 0.8229 of the held-out points, and for 0.8223 of
    six million.

    Args:
        samples: number of training points.
        held_out: number of test points, drawn around the same centres from another seed.
        seed: seed of the centres and the training points.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: x float32 (n, 2), y int32 (n,) in 0..2.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    make_blobs = _sklearn_datasets().make_blobs
    options = dict(n_features=2, cluster_std=2.0)
    x, y, centers = make_blobs(n_samples=samples, centers=3, random_state=seed, return_centers=True, **options)
    x_test, y_test = make_blobs(n_samples=held_out, centers=centers, random_state=seed + 1000003, **options)
    return _points(x, y), _points(x_test, y_test)


def digits(train_size=400, noise=0.0, seed=0):
    """The 1,797 handwritten digits of scikit-learn (8 x 8 pixels), split into a training and a test part.

    Args:
        train_size: number of training images, drawn by `seed`; the others are the test part.
        noise: standard deviation of Gaussian noise added to the training images, in units of the pixel range [0, 1].
            The test images stay clean.
        seed: seed of the split and the noise.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: x float32 (n, 8, 8, 1), clean pixels in [0, 1]; y int32 (n,) in 0..9.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: `train_size` leaves no image on one of the two sides, or `noise` is negative.
    """
    data = _sklearn_datasets().load_digits()
    x = (data.images[..., np.newaxis] / 16.0).astype(np.float32)
    y = data.target.astype(np.int32)
    if not 0 < train_size < len(x):
        raise ValueError(
            "`train_size` must leave images for training and for the test. Received: train_size={!r}. "
            "Give a number from 1 to {}.".format(train_size, len(x) - 1)
        )
    if noise < 0:
        raise ValueError("`noise` is a standard deviation. Received: noise={!r}. Give 0 or more.".format(noise))
    random = np.random.RandomState(seed)
    order = random.permutation(len(x))
    train, test = order[:train_size], order[train_size:]
    noisy = x[train] + noise * random.standard_normal(x[train].shape)
    return (noisy.astype(np.float32), y[train]), (x[test], y[test])


def _points(x, y):
    return x.astype(np.float32), y.astype(np.int32)


def _sklearn_datasets():
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "This data set comes with scikit-learn, which is not installed. Received: {}. "
            "Install it with: pip install 'ascend_keras[recipes]'".format(error)
        ) from error
    return datasets
