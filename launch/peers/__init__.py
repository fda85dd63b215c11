"""The same training steps in PyTorch (eager or compiled) and in Keras 3 on JAX, for `benchmark.py`.

`step(framework, name)` builds a network with its optimizer and returns a function that does one
training step on fixed random data. Networks, losses, batch sizes and optimizers are equal across
frameworks (initial weights are not: they cost no time). Each framework is written the way its own
guides write it, and nothing the other frameworks leave out is computed.

Frameworks are imported inside functions: a process that times one must not load another, since
each brings its own thread pools and allocator habits.

Needs the extra `parity`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Step = Callable[[], None]

FRAMEWORKS = ("torch", "torch_compiled", "keras")
SLICES = ("lenet5", "resnet18", "mobilenet_v2", "lstm", "gru", "char_lstm", "gpt", "dcgan", "wgan_gp", "vae")

HIDDEN = 128  # units of `lstm` and `gru`
SYMBOLS, EMBEDDING, CHAR_HIDDEN = 84, 64, 256  # `char_lstm`
GPT_LAYERS, GPT_WIDTH, GPT_HEADS = 4, 128, 4  # `gpt`, on symbols too
LATENT, BASE = 64, 64  # `dcgan`, `wgan_gp`: length of the noise, channels of the widest feature map
CRITIC_STEPS, PENALTY = 5, 10.0  # `wgan_gp`
CODE, VAE_HIDDEN = 20, 400  # `vae`


def step(framework: str, name: str) -> Step:
  """A function that does one training step and returns when it is done.

  Args:
    framework: one of `FRAMEWORKS`; torch_compiled (Inductor) for the slice gpt alone.
    name: one of `SLICES`; wgan_gp in PyTorch alone.

  Raises:
    KeyError: there is no such slice.
  """
  if framework.startswith("torch"):
    from peers import torch_steps as steps
  else:
    from peers import keras_steps as steps
  options = {"compiled": True} if framework == "torch_compiled" else {}
  return steps.BUILDERS[name](*batch(name), **options)


def batch(name: str) -> tuple[np.ndarray, ...]:
  """The fixed random batch of a slice.

  Returns:
    lenet5: images [128, 32, 32, 1], labels [128]; resnet18: [32, 32, 32, 3], [32]; mobilenet_v2:
    [8, 224, 224, 3], [8]; lstm, gru: inputs and targets [64, 128, 64];
    char_lstm: symbols and the symbols that follow [32, 128]; gpt: the same [16, 128]; dcgan: images
    [64, 32, 32, 1] in [-1, 1]; wgan_gp: [320, 32, 32, 1]; vae: binary images [128, 784]. Floats are
    float32, integers int32.
  """
  rng = np.random.default_rng(0)
  normal = partial(rng.standard_normal, dtype=np.float32)
  if name == "lenet5":
    return normal((128, 32, 32, 1)), rng.integers(10, size=128, dtype=np.int32)
  if name == "resnet18":
    return normal((32, 32, 32, 3)), rng.integers(10, size=32, dtype=np.int32)
  if name == "mobilenet_v2":
    return normal((8, 224, 224, 3)), rng.integers(1000, size=8, dtype=np.int32)
  if name in ("char_lstm", "gpt"):
    text = rng.integers(SYMBOLS, size=(32 if name == "char_lstm" else 16, 129), dtype=np.int32)
    return text[:, :-1], text[:, 1:]
  if name in ("dcgan", "wgan_gp"):
    return (np.tanh(normal((64 if name == "dcgan" else 64 * CRITIC_STEPS, 32, 32, 1))),)
  if name == "vae":
    return ((normal((128, 784)) > 0).astype(np.float32),)
  return normal((64, 128, 64)), normal((64, 128, 64))


def flops(name: str) -> int:
  """Floating-point operations of one training step, counted by hand.

  Two per multiply-add of a matrix product or convolution; element-wise work is not counted. A layer
  costs its forward pass three times (forward, input gradient, weight gradient), except that the
  first needs no input gradient. (XLA's own count takes the body of a scan once.)
  """
  if name in ("lstm", "gru"):
    gates = {"lstm": 4, "gru": 3}[name]
    first, rest = 64 * gates * HIDDEN, gates * HIDDEN**2 + HIDDEN * 64
    return 2 * 64 * 128 * (2 * first + 3 * rest)
  if name == "char_lstm":
    layers = 4 * CHAR_HIDDEN * (EMBEDDING + CHAR_HIDDEN) + CHAR_HIDDEN * SYMBOLS
    return 2 * 32 * 128 * 3 * layers  # the embedding below is a look-up and has a gradient
  if name == "gpt":
    looking = 2 * 128 * GPT_WIDTH  # scores and means of one query, causal or not
    return 2 * 16 * 128 * 3 * (GPT_LAYERS * (12 * GPT_WIDTH**2 + looking) + GPT_WIDTH * SYMBOLS)
  if name in ("dcgan", "wgan_gp"):
    dense, wide = LATENT * 16 * 4 * BASE, 2 * (16 * 16) * (4 * BASE) * (2 * BASE)
    image = 16 * 16 * 16 * BASE
    generator = 3 * (dense + wide + image) - dense
    discriminator = image + wide + 16 * 4 * BASE
    learns, through = 3 * discriminator - image, 2 * discriminator  # with and without gradients of the weights
    if name == "dcgan":
      return 2 * 64 * (generator + 2 * learns + through)
    # The penalty: forward and back to the image, and both of these back again.
    penalty = through + 2 * through
    critic = dense + wide + image + 2 * learns + penalty
    return 2 * 64 * (CRITIC_STEPS * critic + generator - (dense + wide + image) + through)
  if name == "vae":
    first = 784 * VAE_HIDDEN
    rest = VAE_HIDDEN * 2 * CODE + CODE * VAE_HIDDEN + VAE_HIDDEN * 784
    return 2 * 128 * (2 * first + 3 * rest)
  if name == "resnet18":
    first, stage = 32 * 32 * 27 * 64, 16 * 16 * 9 * 128**2  # every stage has as many
    rest = 4 * 32 * 32 * 9 * 64**2 + 3 * (stage // 2 + 3 * stage + stage // 18) + 512 * 10
    return 2 * 32 * (2 * first + 3 * rest)
  if name == "mobilenet_v2":
    return 2 * 8 * (3 * 300_774_272 - 112 * 112 * 27 * 32)  # as `dlcourse.models.summary` counts it
  first = 28 * 28 * 25 * 6
  rest = 10 * 10 * 25 * 6 * 16 + 25 * 16 * 120 + 120 * 84 + 84 * 10
  return 2 * 128 * (2 * first + 3 * rest)
