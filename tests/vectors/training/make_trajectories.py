"""Write the reference trajectories beside this file, with stock TensorFlow gradients.

Run in an environment of its own: `pip install tensorflow-cpu==2.15.1 && python make_trajectories.py`. The project does
not depend on TensorFlow; the tests read only the .npz files.

Each file holds `x` (n, d) and `y` (n, c), the row numbers of every step `rows` (steps, batch) with -1 for a missing
row, the flat weights `before` and `after` (kernels transposed to (units, inputs), each followed by its bias), `anchor`,
which the proximal term pulls towards, the `losses` (steps,), and `settings`: learning rate, momentum, mu.
"""

import os
from itertools import pairwise
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf  # type: ignore[import-untyped,import-not-found,unused-ignore]

STEPS, BATCH, SAMPLES = 100, 16, 200
HERE = Path(__file__).parent


def flat(values):
    return np.concatenate([np.ravel(np.transpose(value)) for value in values]).astype(np.float32)


def draw_variables(random, sizes):
    variables = []
    for width, units in pairwise(sizes):
        variables.append(tf.Variable(random.standard_normal((width, units)).astype(np.float32) / np.sqrt(width)))
        variables.append(tf.Variable(0.1 * random.standard_normal(units).astype(np.float32)))
    return variables


def batch_loss(variables, activations, x, y, *, classes):
    out = tf.constant(x)
    for kernel, bias, activation in zip(variables[::2], variables[1::2], activations, strict=True):
        out = activation(out @ kernel + bias)
    if classes:
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(tf.constant(y), out))
    return tf.reduce_mean(tf.square(out - tf.constant(y)))


def make(name, sizes, activations, *, classes, rate, momentum=0.0, mu=0.0, short_batches=False):
    random = np.random.default_rng(1)
    x = random.standard_normal((SAMPLES, sizes[0])).astype(np.float32)
    y = x
    if classes:
        y = np.eye(classes, dtype=np.float32)[np.argmax(x @ random.standard_normal((sizes[0], classes)), axis=1)]
    variables = draw_variables(random, sizes)
    anchors = [v.numpy() + 0.05 * random.standard_normal(v.shape).astype(np.float32) for v in variables]
    velocities = [tf.Variable(tf.zeros_like(variable)) for variable in variables]
    rows = np.stack([random.permutation(SAMPLES)[:BATCH] for _ in range(STEPS)]).astype(np.int32)
    if short_batches:
        rows[::5, 7:] = -1
    before, losses = flat([v.numpy() for v in variables]), []
    for step in rows:
        chosen = step[step >= 0]
        with tf.GradientTape() as tape:
            loss = batch_loss(variables, activations, x[chosen], y[chosen], classes=classes)
        gradients = tape.gradient(loss, variables)
        for v, gradient, anchor, velocity in zip(variables, gradients, anchors, velocities, strict=True):
            velocity.assign(momentum * velocity + gradient + mu * (v - anchor))
            v.assign(v - rate * velocity)
        losses.append(float(loss))
    np.savez_compressed(
        HERE / f"{name}.npz",
        x=x,
        y=y,
        rows=rows,
        before=before,
        after=flat([v.numpy() for v in variables]),
        anchor=flat(anchors),
        losses=np.array(losses, np.float32),
        settings=np.array([rate, momentum, mu], np.float32),
    )


relu, tanh, linear = tf.nn.relu, tf.tanh, tf.identity
make("classifier-relu-sgd", (24, 16, 8, 5), (relu, relu, linear), classes=5, rate=0.1)
make("classifier-relu-short-batches", (24, 16, 5), (relu, linear), classes=5, rate=0.1, short_batches=True)
make("autoencoder-tanh-sgd", (20, 12, 4, 12, 20), (tanh, tanh, tanh, linear), classes=0, rate=0.5)
make("classifier-relu-momentum", (24, 16, 5), (relu, linear), classes=5, rate=0.02, momentum=0.9)
make("classifier-tanh-prox", (24, 16, 5), (tanh, linear), classes=5, rate=0.1, mu=0.5)
make("autoencoder-tanh-prox-momentum", (20, 8, 20), (tanh, linear), classes=0, rate=0.05, momentum=0.9, mu=0.1)
