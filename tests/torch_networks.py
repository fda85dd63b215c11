"""Reference networks in PyTorch: the layers, order and `state_dict` names of torchvision (extra `parity`)."""

from collections import OrderedDict

import torch
from torch import nn


def alexnet(classes=1000):
  """One tower; Krizhevsky, 2014."""
  pool = nn.MaxPool2d(3, 2)
  plan = [(3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False)]
  plan += [(384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True)]
  layers = []
  for inputs, outputs, size, stride, padding, pooled in plan:
    layers += [nn.Conv2d(inputs, outputs, size, stride, padding), nn.ReLU()]
    layers += [pool] if pooled else []
  dense = [nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU()]
  dense += [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes)]
  return _Flattened(layers, 6, dense)


def alexnet_in_two_towers(classes=1000):
  """Krizhevsky, Sutskever & Hinton, 2012: figure 2 and section 3.3, whose alpha torch divides by n."""
  plan = [(3, 96, 11, 4, 2, 1), (96, 256, 5, 1, 2, 2), (256, 384, 3, 1, 1, 1)]
  plan += [(384, 384, 3, 1, 1, 2), (384, 256, 3, 1, 1, 2)]
  layers = OrderedDict()
  for index, (inputs, outputs, size, stride, padding, groups) in zip((0, 3, 6, 8, 10), plan, strict=True):
    layers[f"{index}"] = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups)
    layers[f"{index} relu"] = nn.ReLU()
    if index < 6:
      layers[f"{index} response norm"] = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    if index not in (6, 8):
      layers[f"{index} pool"] = nn.MaxPool2d(3, 2)
  network = alexnet(classes)
  network.features = nn.Sequential(layers)
  return network


def vgg(depths=(2, 2, 3, 3, 3), classes=1000):
  """Simonyan & Zisserman, 2015."""
  layers, inputs = [], 3
  for depth, outputs in zip(depths, (64, 128, 256, 512, 512), strict=True):
    for _ in range(depth):
      layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
      inputs = outputs
    layers.append(nn.MaxPool2d(2))
  dense = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout()]
  dense += [nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, classes)]
  return _Flattened(layers, 7, dense)


class _Flattened(nn.Module):
  def __init__(self, features, side, classifier):
    super().__init__()
    self.features = nn.Sequential(*features)
    self.avgpool = nn.AdaptiveAvgPool2d(side)
    self.classifier = nn.Sequential(*classifier)

  def forward(self, x):
    return self.classifier(self.avgpool(self.features(x)).flatten(1))


class _Unit(nn.Module):
  """GoogLeNet's convolution with batch norm."""

  def __init__(self, inputs, outputs, size, stride=1):
    super().__init__()
    self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

  def forward(self, x):
    return self.bn(self.conv(x)).relu()


class _Inception(nn.Module):
  def __init__(self, inputs, one, reduce3, three, reduce5, five, proj):
    super().__init__()
    self.branch1 = _Unit(inputs, one, 1)
    self.branch2 = nn.Sequential(_Unit(inputs, reduce3, 1), _Unit(reduce3, three, 3))
    self.branch3 = nn.Sequential(_Unit(inputs, reduce5, 1), _Unit(reduce5, five, 3))  # 3, not the paper's 5
    self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), _Unit(inputs, proj, 1))

  def forward(self, x):
    return torch.cat([branch(x) for branch in self.children()], 1)


class _Auxiliary(nn.Module):
  def __init__(self, inputs, classes):
    super().__init__()
    self.conv = _Unit(inputs, 128, 1)
    self.fc1 = nn.Linear(2048, 1024)
    self.fc2 = nn.Linear(1024, classes)

  def forward(self, x):
    x = self.conv(nn.functional.adaptive_avg_pool2d(x, 4)).flatten(1)
    return self.fc2(nn.functional.dropout(self.fc1(x).relu(), 0.7, self.training))


class GoogLeNet(nn.Module):
  """Szegedy et al., 2015, as in torchvision; returns the logits and those of both auxiliary classifiers."""

  def __init__(self, classes=1000):
    super().__init__()
    self.conv1, self.conv2, self.conv3 = _Unit(3, 64, 7, 2), _Unit(64, 64, 1), _Unit(64, 192, 3)
    self.inception3a = _Inception(192, 64, 96, 128, 16, 32, 32)
    self.inception3b = _Inception(256, 128, 128, 192, 32, 96, 64)
    self.inception4a = _Inception(480, 192, 96, 208, 16, 48, 64)
    self.inception4b = _Inception(512, 160, 112, 224, 24, 64, 64)
    self.inception4c = _Inception(512, 128, 128, 256, 24, 64, 64)
    self.inception4d = _Inception(512, 112, 144, 288, 32, 64, 64)
    self.inception4e = _Inception(528, 256, 160, 320, 32, 128, 128)
    self.inception5a = _Inception(832, 256, 160, 320, 32, 128, 128)
    self.inception5b = _Inception(832, 384, 192, 384, 48, 128, 128)
    self.aux1, self.aux2 = _Auxiliary(512, classes), _Auxiliary(528, classes)
    self.dropout, self.fc = nn.Dropout(0.2), nn.Linear(1024, classes)
    self.three, self.two = nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2, ceil_mode=True)

  def forward(self, x):
    x = self.three(self.conv3(self.conv2(self.three(self.conv1(x)))))
    x = self.inception4a(self.three(self.inception3b(self.inception3a(x))))
    first = self.aux1(x)
    x = self.inception4d(self.inception4c(self.inception4b(x)))
    second = self.aux2(x)
    x = self.inception5b(self.inception5a(self.two(self.inception4e(x))))
    return self.fc(self.dropout(x.mean((2, 3)))), first, second


class _Block(nn.Module):
  """A residual block, of 3x3 convolutions or of 1x1, 3x3 and 1x1 ones; the first 3x3 has the stride."""

  def __init__(self, inputs, width, sizes, stride):
    super().__init__()
    outputs = 4 * width if len(sizes) == 3 else width
    channels = [inputs, *[width] * (len(sizes) - 1), outputs]
    self.sizes, downsample = sizes, [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
    for i, size in enumerate(sizes):
      step = stride if i == sizes.index(3) else 1
      conv = nn.Conv2d(channels[i], channels[i + 1], size, step, size // 2, bias=False)
      self.add_module(f"conv{i + 1}", conv)
      self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
    self.downsample = nn.Sequential(*downsample) if stride > 1 or inputs != outputs else nn.Identity()

  def forward(self, x):
    y = x
    for i in range(1, len(self.sizes) + 1):
      y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y if i == 1 else y.relu()))
    return (y + self.downsample(x)).relu()


class ResNet(nn.Module):
  """He et al., 2016; with the stride in the 3x3 convolution, as in torchvision."""

  def __init__(self, depths, sizes, classes=1000):
    super().__init__()
    self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
    inputs = 64
    for stage, depth in enumerate(depths):
      width, blocks = 64 * 2**stage, []
      for i in range(depth):
        blocks.append(_Block(inputs, width, sizes, 2 if stage and not i else 1))
        inputs = 4 * width if len(sizes) == 3 else width
      self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
    self.fc = nn.Linear(inputs, classes)

  def forward(self, x):
    x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
    x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
    return self.fc(x.mean((2, 3)))


def resnet(depth):
  """Of 18 or 50 layers."""
  depths, sizes = {18: ((2, 2, 2, 2), (3, 3)), 50: ((3, 4, 6, 3), (1, 3, 1))}[depth]
  return ResNet(depths, sizes)


def _named(**layers):
  return nn.Sequential(OrderedDict(layers))


class _DenseLayer(nn.Module):
  def __init__(self, inputs, growth):
    super().__init__()
    self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
    self.norm2 = nn.BatchNorm2d(4 * growth)
    self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

  def forward(self, x):
    y = self.conv1(self.norm1(x).relu())
    return torch.cat([x, self.conv2(self.norm2(y).relu())], 1)


class DenseNet(nn.Module):
  """Huang et al., 2017."""

  def __init__(self, depths=(6, 12, 24, 16), growth=32, classes=1000):
    super().__init__()
    inputs = 2 * growth
    layers = {"conv0": nn.Conv2d(3, inputs, 7, 2, 3, bias=False), "norm0": nn.BatchNorm2d(inputs)}
    layers |= {"relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, 2, 1)}
    for block, depth in enumerate(depths, 1):
      if block > 1:
        layers[f"transition{block - 1}"] = _named(
          norm=nn.BatchNorm2d(inputs),
          relu=nn.ReLU(),
          conv=nn.Conv2d(inputs, inputs // 2, 1, bias=False),
          pool=nn.AvgPool2d(2),
        )
        inputs //= 2
      dense = {f"denselayer{i + 1}": _DenseLayer(inputs + i * growth, growth) for i in range(depth)}
      layers[f"denseblock{block}"] = _named(**dense)
      inputs += depth * growth
    layers["norm5"] = nn.BatchNorm2d(inputs)
    self.features, self.classifier = _named(**layers), nn.Linear(inputs, classes)

  def forward(self, x):
    return self.classifier(self.features(x).relu().mean((2, 3)))
