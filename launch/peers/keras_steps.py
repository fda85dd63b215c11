"""The slices in Keras on JAX, in the stateless form of its guide "Writing a training loop in JAX".

One jitted step with donated state, which is faster than `train_on_batch`.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from peers import (
  BASE,
  CHAR_HIDDEN,
  CODE,
  EMBEDDING,
  GPT_HEADS,
  GPT_LAYERS,
  GPT_WIDTH,
  HIDDEN,
  LATENT,
  SYMBOLS,
  VAE_HIDDEN,
  Step,
)


def _keras() -> Any:
  os.environ["KERAS_BACKEND"] = "jax"
  import keras

  return keras


def _jax_step(train: Callable[..., Any], state: Any, *data: np.ndarray) -> Step:
  """Steps of `train(state, count, *data) -> state`, jitted, with donated state."""
  import jax

  compiled = jax.jit(train, donate_argnums=0)
  # Leaves that share a buffer (zeros, mostly) cannot both be donated.
  state = jax.tree.map(lambda leaf: jax.numpy.array(leaf, copy=True), state)
  data = jax.device_put(data)
  count = 0

  def once() -> None:
    nonlocal state, count
    state = jax.block_until_ready(compiled(state, count, *data))
    count += 1

  return once


def _noise(count: Any, shape: tuple[int, ...]) -> Any:
  """Normal noise, other in each step."""
  import jax

  return jax.random.normal(jax.random.fold_in(jax.random.key(0), count), shape)


def _keras_state(model: Any, optimizer: Any) -> tuple[list[Any], list[Any], list[Any]]:
  optimizer.build(model.trainable_variables)
  groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
  return tuple([variable.value for variable in group] for group in groups)


def _keras_step(model: Any, optimizer: Any, loss: Callable[..., Any], *data: np.ndarray) -> Step:
  """Steps on `loss(call, count, *data)`, where `call(inputs)` runs the model."""
  import jax

  def train(state: Any, count: Any, *data: Any) -> Any:
    weights, rest, moments = state

    def objective(weights: Any) -> Any:
      return loss(lambda inputs: model.stateless_call(weights, rest, inputs, training=True)[0], count, *data)

    weights, moments = optimizer.stateless_apply(moments, jax.grad(objective)(weights), weights)
    return weights, rest, moments

  return _jax_step(train, _keras_state(model, optimizer), *data)


def _keras_cross_entropy(call: Callable[[Any], Any], count: Any, inputs: Any, labels: Any) -> Any:
  keras = _keras()
  return keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, call(inputs))


def _keras_lenet5(images: np.ndarray, labels: np.ndarray) -> Step:
  keras = _keras()

  class Subsample(keras.layers.Layer):
    def build(self, shape: tuple[int, ...]) -> None:
      self.coefficient = self.add_weight(shape=shape[-1:], initializer="ones")
      self.bias = self.add_weight(shape=shape[-1:], initializer="zeros")

    def call(self, x: Any) -> Any:
      return keras.ops.tanh(keras.ops.average_pool(x, 2, 2) * self.coefficient + self.bias)

  model = keras.Sequential([
    keras.Input((32, 32, 1)),
    keras.layers.Conv2D(6, 5, activation="tanh"), Subsample(),
    keras.layers.Conv2D(16, 5, activation="tanh"), Subsample(),
    keras.layers.Conv2D(120, 5, activation="tanh"), keras.layers.Flatten(),
    keras.layers.Dense(84, activation="tanh"), keras.layers.Dense(10),
  ])  # fmt: skip
  return _keras_classifier(model, images, labels)


def _keras_classifier(model: Any, images: np.ndarray, labels: np.ndarray) -> Step:
  optimizer = _keras().optimizers.SGD(0.01, momentum=0.9)
  return _keras_step(model, optimizer, _keras_cross_entropy, images, labels)


def _keras_resnet18(images: np.ndarray, labels: np.ndarray) -> Step:
  keras = _keras()
  layers = keras.layers

  def normed(x: Any, filters: int, size: int, stride: int = 1) -> Any:
    return layers.BatchNormalization()(layers.Conv2D(filters, size, stride, "same", use_bias=False)(x))

  inputs = keras.Input((32, 32, 3))
  x = layers.ReLU()(normed(inputs, 64, 3))
  for stage in range(4):
    for block in range(2):
      filters, stride = 64 * 2**stage, 2 if stage and not block else 1
      y = normed(layers.ReLU()(normed(x, filters, 3, stride)), filters, 3)
      x = layers.ReLU()(layers.Add()([y, normed(x, filters, 1, stride) if stride > 1 else x]))
  outputs = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
  return _keras_classifier(keras.Model(inputs, outputs), images, labels)


def _keras_mobilenet_v2(images: np.ndarray, labels: np.ndarray) -> Step:
  model = _keras().applications.MobileNetV2(weights=None, classifier_activation=None)
  return _keras_classifier(model, images, labels)


def _keras_recurrent(layer: str, inputs: np.ndarray, targets: np.ndarray) -> Step:
  keras = _keras()
  recurrent = getattr(keras.layers, layer)(HIDDEN, return_sequences=True)
  model = keras.Sequential([keras.Input((128, 64)), recurrent, keras.layers.Dense(64)])

  def loss(call: Callable[[Any], Any], count: Any, x: Any, y: Any) -> Any:
    return keras.losses.MeanSquaredError()(y, call(x))

  return _keras_step(model, keras.optimizers.Adam(), loss, inputs, targets)


def _keras_char_lstm(symbols: np.ndarray, following: np.ndarray) -> Step:
  keras = _keras()
  model = keras.Sequential([
    keras.Input((128,), dtype="int32"),
    keras.layers.Embedding(SYMBOLS, EMBEDDING),
    keras.layers.LSTM(CHAR_HIDDEN, return_sequences=True),
    keras.layers.Dense(SYMBOLS),
  ])  # fmt: skip
  optimizer = keras.optimizers.Adam()
  return _keras_step(model, optimizer, _keras_cross_entropy, symbols, following)


def _keras_gpt(symbols: np.ndarray, following: np.ndarray) -> Step:
  keras = _keras()
  layers, length = keras.layers, symbols.shape[1]
  embed = layers.Embedding(SYMBOLS, GPT_WIDTH)
  tokens = keras.Input((length,), dtype="int32")
  x = embed(tokens) + layers.Embedding(length, GPT_WIDTH)(keras.ops.arange(length))
  for _ in range(GPT_LAYERS):
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    x = x + layers.MultiHeadAttention(GPT_HEADS, GPT_WIDTH // GPT_HEADS)(y, y, use_causal_mask=True)
    y = layers.Dense(4 * GPT_WIDTH, activation="gelu")(layers.LayerNormalization(epsilon=1e-5)(x))
    x = x + layers.Dense(GPT_WIDTH)(y)
  x = layers.LayerNormalization(epsilon=1e-5)(x)
  logits = keras.ops.matmul(x, keras.ops.transpose(embed.embeddings))
  optimizer = keras.optimizers.AdamW(1e-3)
  return _keras_step(keras.Model(tokens, logits), optimizer, _keras_cross_entropy, symbols, following)


def _keras_dcgan_networks() -> tuple[Any, Any]:
  keras = _keras()
  layers, b = keras.layers, BASE
  half = partial(layers.Conv2D, kernel_size=4, strides=2, padding="same")
  double = partial(layers.Conv2DTranspose, kernel_size=4, strides=2, padding="same")
  generator = keras.Sequential([
    keras.Input((LATENT,)),
    layers.Dense(16 * 4 * b, use_bias=False), layers.Reshape((4, 4, 4 * b)),
    layers.BatchNormalization(), layers.ReLU(),
    double(2 * b, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
    double(b, use_bias=False), layers.BatchNormalization(), layers.ReLU(),
    double(1, activation="tanh"),
  ])  # fmt: skip
  discriminator = keras.Sequential([
    keras.Input((32, 32, 1)),
    half(b), layers.LeakyReLU(0.2),
    half(2 * b, use_bias=False), layers.BatchNormalization(), layers.LeakyReLU(0.2),
    half(4 * b, use_bias=False), layers.BatchNormalization(), layers.LeakyReLU(0.2),
    layers.Flatten(), layers.Dense(1),
  ])  # fmt: skip
  return generator, discriminator


def _keras_dcgan(images: np.ndarray) -> Step:
  keras = _keras()
  generator, discriminator = _keras_dcgan_networks()
  g_adam, d_adam = (keras.optimizers.Adam(2e-4, beta_1=0.5) for _ in range(2))
  state = _keras_state(generator, g_adam), _keras_state(discriminator, d_adam)
  return _dcgan_step(
    state,
    lambda weights, rest, z: generator.stateless_call(weights, rest, z, training=True),
    lambda weights, rest, x: discriminator.stateless_call(weights, rest, x, training=True),
    lambda grads, moments, weights: g_adam.stateless_apply(moments, grads, weights),
    lambda grads, moments, weights: d_adam.stateless_apply(moments, grads, weights),
    images,
  )


def _dcgan_step(
  state: Any,
  generate: Callable[..., Any],
  judge: Callable[..., Any],
  update_generator: Callable[..., Any],
  update_discriminator: Callable[..., Any],
  images: np.ndarray,
) -> Step:
  """One update of each network, for Keras and Flax.

  Args:
    state: (weights, batch statistics, optimizer state) of the generator and of the discriminator.
    generate: (weights, statistics, noise) to (images, statistics).
    judge: (weights, statistics, images) to (logits, statistics).
    update_generator: (gradients, optimizer state, weights) to (weights, optimizer state).
    update_discriminator: the same.
    images: the real ones.
  """
  import jax

  softplus = jax.nn.softplus  # BCE with logits for target 0, and negated for target 1

  def train(state: Any, count: Any, real: Any) -> Any:
    (g, g_stats, g_moments), (d, d_stats, d_moments) = state
    noise = _noise(count, (len(real), LATENT))
    fake, pull_back, g_stats = jax.vjp(lambda g: generate(g, g_stats, noise), g, has_aux=True)

    def d_loss(d: Any) -> Any:
      on_real, stats = judge(d, d_stats, real)
      on_fake, stats = judge(d, stats, fake)
      return softplus(-on_real).mean() + softplus(on_fake).mean(), stats

    d_grads, d_stats = jax.grad(d_loss, has_aux=True)(d)
    d, d_moments = update_discriminator(d_grads, d_moments, d)

    def g_loss(fake: Any) -> Any:
      logits, stats = judge(d, d_stats, fake)
      return softplus(-logits).mean(), stats

    fake_grads, d_stats = jax.grad(g_loss, has_aux=True)(fake)
    g, g_moments = update_generator(*pull_back(fake_grads), g_moments, g)
    return (g, g_stats, g_moments), (d, d_stats, d_moments)

  return _jax_step(train, state, images)


def _keras_vae(images: np.ndarray) -> Step:
  keras = _keras()
  ops, dense = keras.ops, keras.layers.Dense
  x, noise = keras.Input((784,)), keras.Input((CODE,))
  mean, log_var = ops.split(dense(2 * CODE)(dense(VAE_HIDDEN, activation="relu")(x)), 2, axis=1)
  code = mean + ops.exp(log_var / 2) * noise
  logits = dense(784)(dense(VAE_HIDDEN, activation="relu")(code))
  model = keras.Model([x, noise], [logits, mean, log_var])

  def loss(call: Callable[[Any], Any], count: Any, x: Any) -> Any:
    return _negative_elbo(x, *call([x, _noise(count, (len(x), CODE))]))

  return _keras_step(model, keras.optimizers.Adam(), loss, images)


def _negative_elbo(x: Any, logits: Any, mean: Any, log_var: Any) -> Any:
  import jax.numpy as jnp
  import optax

  error = optax.sigmoid_binary_cross_entropy(logits, x).sum()
  divergence = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var).sum()
  return (error + divergence) / len(x)


BUILDERS = {
  "lenet5": _keras_lenet5,
  "resnet18": _keras_resnet18,
  "mobilenet_v2": _keras_mobilenet_v2,
  "lstm": partial(_keras_recurrent, "LSTM"),
  "gru": partial(_keras_recurrent, "GRU"),
  "char_lstm": _keras_char_lstm,
  "gpt": _keras_gpt,
  "dcgan": _keras_dcgan,
  "vae": _keras_vae,
}
