"""Reference networks of inverted residuals in PyTorch, with torchvision's names and timm's (extra `parity`)."""

from torch import nn


def _normed(inputs, outputs, size, stride=1, groups=1, act=None, eps=1e-5):
  conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
  return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps), *([act()] if act else []))


class _Shortcut(nn.Module):
  """A branch, called as the library calls it, beside the identity where the shapes agree."""

  def __init__(self, name, branch, same):
    super().__init__()
    self.add_module(name, branch)
    self.branch, self.same = [branch], same  # in a list, so that it is registered once

  def forward(self, x):
    return self.branch[0](x) + x if self.same else self.branch[0](x)


def mobilenet_v2(classes=1000):
  """Sandler et al., 2018."""
  rows = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
  ]
  layers, inputs = [_normed(3, 32, 3, 2, act=nn.ReLU6)], 32
  for expansion, outputs, depth, first_stride in rows:
    for i in range(depth):
      wide, stride = expansion * inputs, 1 if i else first_stride
      parts = [_normed(inputs, wide, 1, act=nn.ReLU6)] if expansion > 1 else []
      parts += [_normed(wide, wide, 3, stride, wide, nn.ReLU6)]
      branch = nn.Sequential(*parts, nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
      layers.append(_Shortcut("conv", branch, stride == 1 and inputs == outputs))
      inputs = outputs
  return _Classifier(nn.Sequential(*layers, _normed(320, 1280, 1, act=nn.ReLU6)), nn.Linear(1280, classes))


class _Classifier(nn.Module):
  def __init__(self, features, dense):
    super().__init__()
    self.features, self.classifier = features, nn.Sequential(nn.Dropout(0.2), dense)

  def forward(self, x):
    return self.classifier(self.features(x).mean((2, 3)))


class _Excite(nn.Module):
  """Squeeze-and-excite (Hu et al., 2018), its layers called as in torchvision or as in timm."""

  def __init__(self, wide, narrow, names):
    super().__init__()
    self.layers = [nn.Conv2d(wide, narrow, 1), nn.Conv2d(narrow, wide, 1)]
    for name, layer in zip(names, self.layers, strict=True):
      self.add_module(name, layer)

  def forward(self, x):
    reduce, expand = self.layers
    return x * expand(nn.functional.silu(reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


# Tan & Le, 2019, table 1: expansion, kernel, stride, filters and blocks, and those of B2.
_ROWS = [(1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)]
_ROWS += [(6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)]
_ROWS_B2 = [(1, 3, 1, 16, 2), (6, 3, 2, 24, 3), (6, 5, 2, 48, 3), (6, 3, 2, 88, 4)]
_ROWS_B2 += [(6, 5, 1, 120, 4), (6, 5, 2, 208, 5), (6, 3, 1, 352, 2)]


def efficientnet(classes=1000):
  """EfficientNet-B0 with torchvision's names and padding."""
  layers, inputs = [_normed(3, 32, 3, 2, act=nn.SiLU)], 32
  for expansion, size, first_stride, outputs, depth in _ROWS:
    blocks = []
    for i in range(depth):
      wide, stride = expansion * inputs, 1 if i else first_stride
      parts = [_normed(inputs, wide, 1, act=nn.SiLU)] if expansion > 1 else []
      parts += [_normed(wide, wide, size, stride, wide, nn.SiLU), _Excite(wide, inputs // 4, ("fc1", "fc2"))]
      branch = nn.Sequential(*parts, _normed(wide, outputs, 1))
      blocks.append(_Shortcut("block", branch, stride == 1 and inputs == outputs))
      inputs = outputs
    layers.append(nn.Sequential(*blocks))
  return _Classifier(nn.Sequential(*layers, _normed(320, 1280, 1, act=nn.SiLU)), nn.Linear(1280, classes))


class _Same(nn.Conv2d):
  """TensorFlow's padding: at stride 2, of maps of even side, one zero more at the end."""

  def __init__(self, inputs, outputs, size, stride=1, groups=1):
    super().__init__(inputs, outputs, size, stride, groups=groups, bias=False)

  def forward(self, x):
    pads = []
    for side in (x.shape[3], x.shape[2]):
      total = max(0, (-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side)
      pads += [total // 2, total - total // 2]
    return super().forward(nn.functional.pad(x, pads))


class _TimmBlock(nn.Module):
  """With expansion and without, whose layers timm calls otherwise."""

  def __init__(self, inputs, outputs, expansion, size, stride):
    super().__init__()
    wide = expansion * inputs
    depthwise = _Same(wide, wide, size, stride, wide)
    convs = {"conv_dw": depthwise, "conv_pw": _Same(wide, outputs, 1)}
    if expansion > 1:
      convs = {"conv_pw": _Same(inputs, wide, 1), "conv_dw": depthwise, "conv_pwl": _Same(wide, outputs, 1)}
    self.steps = [(conv, nn.BatchNorm2d(conv.out_channels, 1e-3)) for conv in convs.values()]
    for i, (name, (conv, norm)) in enumerate(zip(convs, self.steps, strict=True), 1):
      self.add_module(name, conv)
      self.add_module(f"bn{i}", norm)
    self.se = _Excite(wide, inputs // 4, ("conv_reduce", "conv_expand"))
    self.same = stride == 1 and inputs == outputs

  def forward(self, x):
    y = x
    for conv, norm in self.steps[:-1]:
      y = nn.functional.silu(norm(conv(y)))
    conv, norm = self.steps[-1]
    y = norm(conv(self.se(y)))
    return x + y if self.same else y


class TimmEfficientNetB2(nn.Module):
  """EfficientNet-B2 with timm's names and TensorFlow's padding."""

  def __init__(self, classes=1000):
    super().__init__()
    self.conv_stem, self.bn1 = _Same(3, 32, 3, 2), nn.BatchNorm2d(32, 1e-3)
    inputs, stages = 32, []
    for expansion, size, stride, outputs, depth in _ROWS_B2:
      blocks = []
      for i in range(depth):
        blocks.append(_TimmBlock(inputs, outputs, expansion, size, 1 if i else stride))
        inputs = outputs
      stages.append(nn.Sequential(*blocks))
    self.blocks = nn.Sequential(*stages)
    self.conv_head, self.bn2 = _Same(inputs, 1408, 1), nn.BatchNorm2d(1408, 1e-3)
    self.classifier = nn.Linear(1408, classes)

  def forward(self, x):
    x = self.blocks(nn.functional.silu(self.bn1(self.conv_stem(x))))
    return self.classifier(nn.functional.silu(self.bn2(self.conv_head(x))).mean((2, 3)))
