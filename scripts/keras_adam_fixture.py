#!/usr/bin/env python3
"""Writes head-trainer/tests/data/keras_adam.json: what Keras's own Adam does to a tiny head.

The Rust solver is tested against these numbers (head-trainer/tests/keras_adam.rs). The problem
has 40 rows of 6 features, batches of 16, 16 and 8 rows (a short last batch, so that the running
means' weighting is tested too), 4 epochs and thus 12 steps, and 12 validation rows. It is the
tutorial's compile() call: sigmoid output, `binary_crossentropy`, Adam() with its defaults.

Usage: pip install tensorflow-cpu && python scripts/keras_adam_fixture.py
"""

import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

ROWS, VALIDATION_ROWS, CHANNELS, BATCH, EPOCHS = 40, 12, 6, 16, 4
OUTPUT = pathlib.Path(__file__).parent.parent / "head-trainer/tests/data/keras_adam.json"

rng = np.random.default_rng(20200101)
features_nc = rng.gamma(2.0, 0.5, size=(ROWS + VALIDATION_ROWS, CHANNELS)).astype(np.float32)
truth = rng.normal(size=CHANNELS)
logits = (features_nc - 1.0) @ truth + 0.5 * rng.normal(size=len(features_nc))
labels = (logits > 0).astype(np.int64)
# One full permutation of the training rows for each epoch, cut into batches.
batches = []
for _ in range(EPOCHS):
    order = rng.permutation(ROWS)
    batches.append([order[i : i + BATCH].tolist() for i in range(0, ROWS, BATCH)])

initial_c = keras.initializers.GlorotUniform(seed=7)((CHANNELS, 1)).numpy()
model = keras.Sequential(
    [keras.Input((CHANNELS,)), keras.layers.Dense(1, activation="sigmoid")]
)
model.compile(optimizer=keras.optimizers.Adam(), loss="binary_crossentropy", metrics=["accuracy"])
model.layers[0].set_weights([initial_c, np.zeros(1, np.float32)])


def stream():
    for epoch in batches:
        for batch in epoch:
            yield features_nc[batch], labels[batch].astype(np.float32)[:, None]


train = tf.data.Dataset.from_generator(
    stream,
    output_signature=(
        tf.TensorSpec((None, CHANNELS), tf.float32),
        tf.TensorSpec((None, 1), tf.float32),
    ),
)
validation = (features_nc[ROWS:], labels[ROWS:].astype(np.float32)[:, None])
steps = []


class Record(keras.callbacks.Callback):
    """Keeps the running means that Keras shows and the weights after every step."""

    def on_train_batch_end(self, batch, logs=None):
        weights, bias = self.model.layers[0].get_weights()
        steps.append(
            {
                "running_loss": float(logs["loss"]),
                "running_accuracy": float(logs["accuracy"]),
                "weights": [float(w) for w in weights[:, 0]],
                "bias": float(bias[0]),
            }
        )


history = model.fit(
    train,
    epochs=EPOCHS,
    steps_per_epoch=len(batches[0]),
    validation_data=validation,
    callbacks=[Record()],
    verbose=0,
).history

fixture = {
    "made_with": {"tensorflow": tf.__version__, "keras": keras.__version__},
    "channels": CHANNELS,
    "batch": BATCH,
    "train_rows": ROWS,
    "features": [[float(x) for x in row] for row in features_nc],
    "labels": [int(y) for y in labels],
    "initial_weights": [float(w) for w in initial_c[:, 0]],
    "batches": batches,
    "steps": steps,
    "epochs": [
        {
            "train_loss": float(history["loss"][e]),
            "train_accuracy": float(history["accuracy"][e]),
            "validation_loss": float(history["val_loss"][e]),
            "validation_accuracy": float(history["val_accuracy"][e]),
        }
        for e in range(EPOCHS)
    ],
}
OUTPUT.parent.mkdir(parents=True, exist_ok=True)
OUTPUT.write_text(json.dumps(fixture) + "\n")
print(f"{OUTPUT}: {len(steps)} steps, last losses {fixture['epochs'][-1]}")
