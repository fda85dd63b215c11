"""What the tests of the app ask: models that have been trained for a moment."""

import pytest

from dlcourse.experiment import Options, load
from dlcourse.train import train


def trained_in(path, name, *overrides):
  overrides = [*load(name).small, *overrides]
  train(name, overrides, load(name, overrides), path, Options(devices=1))
  return path


@pytest.fixture(scope="session")
def lenet(tmp_path_factory):
  """The workdir of a convolutional network of digits."""
  return trained_in(tmp_path_factory.mktemp("app") / "lenet", "cnn.lenet5", "--steps=20", "--eval_every=20")


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
  """The workdir of a VAE of digits."""
  return trained_in(tmp_path_factory.mktemp("app") / "vae", "vae.mlp")


@pytest.fixture(scope="session")
def gan(tmp_path_factory):
  """The workdir of a GAN of digits."""
  return trained_in(tmp_path_factory.mktemp("app") / "gan", "gan.dcgan")
