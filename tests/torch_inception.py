"""Inception-v3 in PyTorch: layers, order and names of the file that torch-fidelity loads (extra `parity`)."""

import torch
from torch import nn


class _Unit(nn.Module):
  def __init__(self, inputs, outputs, size, stride=1, padding="same"):
    super().__init__()
    self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
    self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

  def forward(self, x):
    return self.bn(self.conv(x)).relu()


def _average(x):
  return nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _largest(x):
  return nn.functional.max_pool2d(x, 3, 1, 1)


def _halved(x):
  return nn.functional.max_pool2d(x, 3, 2)


class _Block(nn.Module):
  """Branches side by side: each a list of units, after a pooling that may be its only part.

  A unit is (name, outputs, size) or with (…, 2, 0) strided; several in one place are a set of branches.
  """

  def __init__(self, inputs, *branches):
    super().__init__()
    self.branches = []
    for branch in branches:
      width, parts = inputs, []
      for part in branch:
        if callable(part):
          parts.append(part)
          continue
        units = part if isinstance(part, list) else [part]
        for name, outputs, *rest in units:
          self.add_module(name, _Unit(width, outputs, *rest))
        parts.append([name for name, *_ in units])
        width = units[0][1]
      self.branches.append(parts)

  def forward(self, x):
    outs = []
    for parts in self.branches:
      y = x
      for part in parts:
        y = part(y) if callable(part) else torch.cat([getattr(self, name)(y) for name in part], 1)
      outs.append(y)
    return torch.cat(outs, 1)


def _a(inputs, pooled):
  return _Block(
    inputs,
    [("branch1x1", 64, 1)],
    [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    [_average, ("branch_pool", pooled, 1)],
  )


def _c(width):
  double = [(1, 1), (7, 1), (1, 7), (7, 1), (1, 7)]
  widths = [width] * 4 + [192]
  return _Block(
    768,
    [("branch1x1", 192, 1)],
    [("branch7x7_1", width, 1), ("branch7x7_2", width, (1, 7)), ("branch7x7_3", 192, (7, 1))],
    [(f"branch7x7dbl_{i + 1}", widths[i], double[i]) for i in range(5)],
    [_average, ("branch_pool", 192, 1)],
  )


def _e(inputs, pool):
  return _Block(
    inputs,
    [("branch1x1", 320, 1)],
    [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))]],
    [
      *[("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)],
      [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
    ],
    [pool, ("branch_pool", 192, 1)],
  )


class InceptionV3(nn.Module):
  """Szegedy et al., 2016, as TensorFlow's graph of 2015 has it; returns features [B, 2048] and 1,008 logits."""

  def __init__(self):
    super().__init__()
    self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Unit(3, 32, 3, 2, 0), _Unit(32, 32, 3, 1, 0)
    self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = _Unit(32, 64, 3), _Unit(64, 80, 1)
    self.Conv2d_4a_3x3 = _Unit(80, 192, 3, 1, 0)
    self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
    self.Mixed_6a = _Block(
      288,
      [("branch3x3", 384, 3, 2, 0)],
      [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2, 0)],
      [_halved],
    )
    self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
    self.Mixed_7a = _Block(
      768,
      [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2, 0)],
      [
        *[("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1))],
        ("branch7x7x3_4", 192, 3, 2, 0),
      ],
      [_halved],
    )
    self.Mixed_7b, self.Mixed_7c = _e(1280, _average), _e(2048, _largest)
    self.fc = nn.Linear(2048, 1008)

  def forward(self, x):
    x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
    x = _halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(x))))
    for name, block in self.named_children():
      if name.startswith("Mixed"):
        x = block(x)
    features = x.mean((2, 3))
    return features, self.fc(features)
