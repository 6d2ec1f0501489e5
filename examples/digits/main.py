"""A small network that reads handwritten digits, in numpy; for `nsml run` and for plain `python main.py`."""

import argparse
import os

import numpy

import nsml
from nsml import DATASET_PATH, HAS_DATASET, IS_ON_NSML

HIDDEN = 64
BATCH = 32
SAVE_EVERY = 5


class Network:
    """Two layers with a ReLU between them, trained by gradient descent with momentum."""

    def __init__(self, inputs, hidden, outputs, seed=1):
        random = numpy.random.default_rng(seed)
        self.weights = {
            "w1": random.normal(0, (2 / inputs) ** 0.5, (inputs, hidden)),
            "b1": numpy.zeros(hidden),
            "w2": random.normal(0, (2 / hidden) ** 0.5, (hidden, outputs)),
            "b2": numpy.zeros(outputs),
        }
        self.speed = {name: numpy.zeros_like(weight) for name, weight in self.weights.items()}
        self.epoch = 0

    def forward(self, images):
        """The hidden layer and the probability of each digit."""
        hidden = numpy.maximum(images @ self.weights["w1"] + self.weights["b1"], 0)
        scores = hidden @ self.weights["w2"] + self.weights["b2"]
        scores = numpy.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, scores / scores.sum(axis=1, keepdims=True)

    def learn(self, images, labels, rate):
        """One step down the gradient; the loss before it."""
        hidden, chances = self.forward(images)
        rows = numpy.arange(len(labels))
        loss = -numpy.log(chances[rows, labels] + 1e-12).mean()
        chances[rows, labels] -= 1
        back = chances / len(labels)
        inner = (back @ self.weights["w2"].T) * (hidden > 0)
        gradients = {"w1": images.T @ inner, "b1": inner.sum(0), "w2": hidden.T @ back, "b2": back.sum(0)}
        for name, gradient in gradients.items():
            self.speed[name] = 0.8 * self.speed[name] - rate * gradient
            self.weights[name] += self.speed[name]
        return loss

    def accuracy(self, images, labels):
        return (self.forward(images)[1].argmax(axis=1) == labels).mean()


def read(name):
    """Images and labels of one part: from the session's dataset, else from scikit-learn itself."""
    if HAS_DATASET:
        folder = os.path.join(DATASET_PATH, "train")
        return [numpy.load(os.path.join(folder, f"{name}_{kind}.npy")) for kind in ("images", "labels")]
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = numpy.random.default_rng(7).permutation(len(digits.target))
    part = order[:360] if name == "test" else order[360:]
    return digits.data[part] / 16, digits.target[part]


def bind(network):
    """Tell NSML how the network is saved, loaded and asked."""

    def save(folder):
        numpy.savez(os.path.join(folder, "network.npz"), epoch=network.epoch, **network.weights)

    def load(folder):
        with numpy.load(os.path.join(folder, "network.npz")) as saved:
            network.weights = {name: saved[name] for name in network.weights}
            network.epoch = int(saved["epoch"])
        print(f"loaded the network of epoch {network.epoch}")

    nsml.bind(save=save, load=load, infer=lambda images: network.forward(images)[1].argmax(axis=1))


def train(network, config):
    images, labels = read("train")
    test = read("test")
    random = numpy.random.default_rng(2)
    print(f"{len(labels)} digits to learn from, {len(test[1])} held out")
    while network.epoch < config.epochs:
        network.epoch += 1
        order = random.permutation(len(labels))
        batches = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
        loss = numpy.mean([network.learn(images[batch], labels[batch], config.lr) for batch in batches])
        accuracy = network.accuracy(*test)
        nsml.report(
            summary=True,
            step=network.epoch,
            epoch=network.epoch,
            epoch_total=config.epochs,
            train__loss=loss,
            test__accuracy=accuracy,
        )
        print(f"epoch {network.epoch}/{config.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}", flush=True)
        if network.epoch % SAVE_EVERY == 0 or network.epoch == config.epochs:
            nsml.save(network.epoch)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--mode", default="train", help="set by NSML")
    parser.add_argument(
        "--pause", type=int, default=0, help="set by NSML: 1 when a checkpoint is to be loaded"
    )
    parser.add_argument("--iteration", default="0", help="set by NSML: the checkpoint")
    config = parser.parse_args()

    network = Network(64, HIDDEN, 10)
    bind(network)
    if config.pause:
        nsml.paused(scope=locals())
    if config.mode == "train":
        if not IS_ON_NSML:
            print("outside NSML: nothing is reported or saved")
        train(network, config)


if __name__ == "__main__":
    main()
