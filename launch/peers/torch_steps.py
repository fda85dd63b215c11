"""The slices in PyTorch, eager; gpt also compiled. Images are [batch, channels, height, width], its default.

The large networks are those that the parity tests compare with.
"""

import pathlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from peers import (
  BASE,
  CHAR_HIDDEN,
  CODE,
  CRITIC_STEPS,
  EMBEDDING,
  GPT_HEADS,
  GPT_LAYERS,
  GPT_WIDTH,
  HIDDEN,
  LATENT,
  PENALTY,
  SYMBOLS,
  VAE_HIDDEN,
  Step,
)

sys.path.append(str(pathlib.Path(__file__).parents[2] / "tests"))


def _torch_step(optimizer: Any, loss: Callable[[], Any]) -> Step:
  def train() -> None:
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()

  return train


def _torch_images(images: np.ndarray) -> Any:
  import torch

  return torch.tensor(images).permute(0, 3, 1, 2).contiguous()


def _torch_lenet5(images: np.ndarray, labels: np.ndarray) -> Step:
  import torch
  from torch import nn

  class Subsample(nn.Module):
    def __init__(self, channels: int):
      super().__init__()
      self.coefficient = nn.Parameter(torch.ones(channels, 1, 1))
      self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
      return nn.functional.avg_pool2d(x, 2) * self.coefficient + self.bias

  net = nn.Sequential(
    nn.Conv2d(1, 6, 5), nn.Tanh(), Subsample(6), nn.Tanh(),
    nn.Conv2d(6, 16, 5), nn.Tanh(), Subsample(16), nn.Tanh(),
    nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(),
    nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
  )  # fmt: skip
  return _torch_classifier(net, images, labels)


def _torch_classifier(net: Any, images: np.ndarray, labels: np.ndarray) -> Step:
  import torch

  x, y = _torch_images(images), torch.tensor(labels).long()
  optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
  return _torch_step(optimizer, lambda: torch.nn.functional.cross_entropy(net(x), y))


def _torch_resnet18(images: np.ndarray, labels: np.ndarray) -> Step:
  from torch import nn
  from torch_networks import ResNet

  class Small(ResNet):
    def forward(self, x: Any) -> Any:
      x = self.bn1(self.conv1(x)).relu()
      return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3)))

  net = Small((2, 2, 2, 2), (3, 3), classes=10)
  net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
  return _torch_classifier(net, images, labels)


def _torch_mobilenet_v2(images: np.ndarray, labels: np.ndarray) -> Step:
  from torch_mobile_networks import mobilenet_v2

  return _torch_classifier(mobilenet_v2(), images, labels)


def _torch_recurrent(layer: str, inputs: np.ndarray, targets: np.ndarray) -> Step:
  import torch
  from torch import nn

  recurrent = getattr(nn, layer)(64, HIDDEN, batch_first=True)
  dense = nn.Linear(HIDDEN, 64)
  x, y = torch.tensor(inputs), torch.tensor(targets)
  optimizer = torch.optim.Adam([*recurrent.parameters(), *dense.parameters()])
  return _torch_step(optimizer, lambda: nn.functional.mse_loss(dense(recurrent(x)[0]), y))


def _torch_char_lstm(symbols: np.ndarray, following: np.ndarray) -> Step:
  import torch
  from torch import nn

  embedding = nn.Embedding(SYMBOLS, EMBEDDING)
  recurrent = nn.LSTM(EMBEDDING, CHAR_HIDDEN, batch_first=True)
  dense = nn.Linear(CHAR_HIDDEN, SYMBOLS)
  x, y = torch.tensor(symbols).long(), torch.tensor(following).long()
  layers = (embedding, recurrent, dense)
  optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()])

  def loss() -> torch.Tensor:
    logits = dense(recurrent(embedding(x))[0])
    return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())

  return _torch_step(optimizer, loss)


def _torch_gpt(symbols: np.ndarray, following: np.ndarray, compiled: bool = False) -> Step:
  import torch
  from torch import nn

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm1, self.norm2 = nn.LayerNorm(GPT_WIDTH), nn.LayerNorm(GPT_WIDTH)
      self.qkv, self.out = nn.Linear(GPT_WIDTH, 3 * GPT_WIDTH), nn.Linear(GPT_WIDTH, GPT_WIDTH)
      self.mlp = nn.Sequential(
        nn.Linear(GPT_WIDTH, 4 * GPT_WIDTH), nn.GELU(), nn.Linear(4 * GPT_WIDTH, GPT_WIDTH)
      )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
      heads = self.qkv(self.norm1(x)).unflatten(-1, (3, GPT_HEADS, -1)).permute(2, 0, 3, 1, 4)
      y = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
      x = x + self.out(y.transpose(1, 2).flatten(2))
      return x + self.mlp(self.norm2(x))

  class Gpt(nn.Module):
    def __init__(self):
      super().__init__()
      self.embed, self.place = nn.Embedding(SYMBOLS, GPT_WIDTH), nn.Embedding(symbols.shape[1], GPT_WIDTH)
      self.blocks = nn.Sequential(*(Block() for _ in range(GPT_LAYERS)))
      self.norm = nn.LayerNorm(GPT_WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
      x = self.norm(self.blocks(self.embed(x) + self.place.weight))
      return nn.functional.linear(x, self.embed.weight)

  net = Gpt()
  x, y = torch.tensor(symbols).long(), torch.tensor(following).long()
  optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)

  def loss() -> torch.Tensor:
    return nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten())

  return _torch_step(optimizer, torch.compile(loss) if compiled else loss)


def _torch_generator() -> Any:
  from torch import nn

  b = BASE
  return nn.Sequential(
    nn.Linear(LATENT, 16 * 4 * b, bias=False), nn.Unflatten(1, (4 * b, 4, 4)),
    nn.BatchNorm2d(4 * b), nn.ReLU(),
    nn.ConvTranspose2d(4 * b, 2 * b, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * b), nn.ReLU(),
    nn.ConvTranspose2d(2 * b, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
    nn.ConvTranspose2d(b, 1, 4, 2, 1), nn.Tanh(),
  )  # fmt: skip


def _torch_discriminator(norm: Callable[[int], Any], bias: bool) -> Any:
  from torch import nn

  b = BASE
  return nn.Sequential(
    nn.Conv2d(1, b, 4, 2, 1), nn.LeakyReLU(0.2),
    nn.Conv2d(b, 2 * b, 4, 2, 1, bias=bias), norm(2 * b), nn.LeakyReLU(0.2),
    nn.Conv2d(2 * b, 4 * b, 4, 2, 1, bias=bias), norm(4 * b), nn.LeakyReLU(0.2),
    nn.Flatten(), nn.Linear(16 * 4 * b, 1),
  )  # fmt: skip


def _torch_dcgan(images: np.ndarray) -> Step:
  import torch
  from torch import nn

  generator, discriminator = _torch_generator(), _torch_discriminator(nn.BatchNorm2d, bias=False)
  adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
  g_optimizer, d_optimizer = adam(generator.parameters()), adam(discriminator.parameters())
  real = _torch_images(images)
  softplus = nn.functional.softplus  # BCE with logits for target 0, and negated for target 1

  def train() -> None:
    fake = generator(torch.randn(len(real), LATENT))
    d_optimizer.zero_grad()
    d_loss = softplus(-discriminator(real)).mean() + softplus(discriminator(fake.detach())).mean()
    d_loss.backward()
    d_optimizer.step()
    _torch_teach(generator, g_optimizer, discriminator, lambda: softplus(-discriminator(fake)).mean())

  return train


def _torch_teach(generator: Any, optimizer: Any, discriminator: Any, loss: Callable[[], Any]) -> None:
  """One update of the generator."""
  optimizer.zero_grad()
  discriminator.requires_grad_(False)  # or its unused weight gradients are computed too
  loss().backward()
  discriminator.requires_grad_(True)
  optimizer.step()


def _torch_wgan_gp(images: np.ndarray) -> Step:
  import torch
  from torch import nn

  generator, critic = _torch_generator(), _torch_discriminator(partial(nn.GroupNorm, 1), bias=True)
  adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.0, 0.9))
  g_optimizer, d_optimizer = adam(generator.parameters()), adam(critic.parameters())
  parts = _torch_images(images).chunk(CRITIC_STEPS)

  def penalty(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    share = torch.rand(len(real), 1, 1, 1)
    between = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()

  def train() -> None:
    for number, real in enumerate(parts):
      with torch.set_grad_enabled(number == CRITIC_STEPS - 1):  # the generator learns through the last fakes
        fake = generator(torch.randn(len(real), LATENT))
      d_optimizer.zero_grad()
      seen = fake.detach()
      d_loss = critic(seen).mean() - critic(real).mean() + PENALTY * penalty(real, seen)
      d_loss.backward()
      d_optimizer.step()
    _torch_teach(generator, g_optimizer, critic, lambda: -critic(fake).mean())

  return train


def _torch_vae(images: np.ndarray) -> Step:
  import torch
  from torch import nn

  encoder = nn.Sequential(nn.Linear(784, VAE_HIDDEN), nn.ReLU(), nn.Linear(VAE_HIDDEN, 2 * CODE))
  decoder = nn.Sequential(nn.Linear(CODE, VAE_HIDDEN), nn.ReLU(), nn.Linear(VAE_HIDDEN, 784))
  x = torch.tensor(images)
  optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])

  def loss() -> torch.Tensor:
    mean, log_var = encoder(x).chunk(2, dim=1)
    logits = decoder(mean + torch.exp(log_var / 2) * torch.randn_like(mean))
    error = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    divergence = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
    return (error + divergence) / len(x)

  return _torch_step(optimizer, loss)


BUILDERS = {
  "lenet5": _torch_lenet5,
  "resnet18": _torch_resnet18,
  "mobilenet_v2": _torch_mobilenet_v2,
  "lstm": partial(_torch_recurrent, "LSTM"),
  "gru": partial(_torch_recurrent, "GRU"),
  "char_lstm": _torch_char_lstm,
  "gpt": _torch_gpt,
  "dcgan": _torch_dcgan,
  "wgan_gp": _torch_wgan_gp,
  "vae": _torch_vae,
}
