"""scikit-learn's digits: 1,797 grey images of 8 x 8 pixels, ten classes, inside its package.

Source: UCI "Optical Recognition of Handwritten Digits" test set (Alpaydin and Kaynak 1998),
CC BY 4.0. Every fifth image is a test image (360), the rest (1,437) train: no random split, so that
every machine has the same one. The sha256 below is of the pixel and label bytes.
"""

import hashlib
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from bench.dataset import Data, Split, WrongDataError

SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
LICENCE = "CC BY 4.0"


def read() -> Data:
    """Return images [items, 1, 8, 8] in 0..1 and labels [items].

    Raises:
        WrongDataError: a scikit-learn release changed them.
    """
    bunch: Any = load_digits()
    pixels = np.asarray(bunch.data).astype(np.uint8)
    labels = np.asarray(bunch.target).astype(np.uint8)
    found = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    if found != SHA256:
        raise WrongDataError(
            f"digits: sha256 of scikit-learn's data is {found}, must be {SHA256}; "
            "install the locked scikit-learn version"
        )
    images = torch.from_numpy(pixels).float().div_(16).view(-1, 1, 8, 8)
    classes = torch.from_numpy(labels.astype(np.int64))
    test = torch.arange(len(images)) % 5 == 0
    return Data(train=Split(images[~test], classes[~test]), test=Split(images[test], classes[test]))
