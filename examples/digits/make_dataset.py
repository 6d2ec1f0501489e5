"""Write scikit-learn's 1,797 handwritten digits as files: python make_dataset.py FOLDER"""

import os
import sys

import numpy
from sklearn.datasets import load_digits

HELD_OUT = 360  # one in five, as many of each digit as chance gives


def main(folder):
    digits = load_digits()
    order = numpy.random.default_rng(7).permutation(len(digits.target))
    images, labels = digits.data[order].astype("float32") / 16, digits.target[order].astype("int64")
    os.makedirs(folder, exist_ok=True)
    for name, part in (("test", slice(HELD_OUT)), ("train", slice(HELD_OUT, None))):
        numpy.save(os.path.join(folder, name + "_images.npy"), images[part])
        numpy.save(os.path.join(folder, name + "_labels.npy"), labels[part])
    print(f"{len(labels)} digits written to {folder}: {len(labels) - HELD_OUT} to learn, {HELD_OUT} held out")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python make_dataset.py FOLDER")
    main(sys.argv[1])
