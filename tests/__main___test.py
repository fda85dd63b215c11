"""The command line, mostly in this process: a start of Python with JAX costs seconds."""

import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from absl import flags
from PIL import Image

from dlcourse.__main__ import VERBS, _unraisablehook, main
from dlcourse.experiment import Experiment, Study, catalogue

OWN_FILE = '''
"""One's own."""

from dlcourse.data.images import Images
from dlcourse.experiment import Best, Experiment
from dlcourse.models.mlp import MLP
from dlcourse.optim import Sgd
from dlcourse.tasks.supervised import Classify


def net() -> Experiment:
  """A tiny network."""
  return Experiment(
    data=Images("digits", size=8, batch_size=64),
    task=Classify(MLP(hidden_dims=(4,), norm=False), Sgd(learning_rate=0.1)),
    best=Best("accuracy", mode="max"),
    steps=2)
'''


@pytest.fixture
def dlcourse(monkeypatch, capsys, tmp_path):
  """Runs a command in an empty folder: (exit code, standard output, standard error)."""
  monkeypatch.chdir(tmp_path)

  def run(*args):
    flags.FLAGS.unparse_flags()
    monkeypatch.setattr(sys, "argv", ["dlcourse", *args])
    with pytest.raises(SystemExit) as left:
      main()
    captured = capsys.readouterr()
    return left.value.code or 0, captured.out, captured.err

  yield run
  flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
  ("command", "said"),
  [
    ("trian", "unknown verb 'trian'; perhaps you meant 'train'"),
    ("train", "which experiment?"),
    ("train --experiment=cnn.lenet", "unknown experiment 'cnn.lenet'; perhaps you meant 'cnn.lenet5'"),
    ("train cnn.lenet", "unknown experiment 'cnn.lenet'"),
    ("train cnn.mlp stray", "stray"),
    ("train cnn.mlp --sed=1", "--sed"),
    ("train cnn.mlp --seed=x", "--seed=x"),
    ("train cnn.mlp --seed=-1", "--seed=-1"),
    ("train cnn.mlp --parallel=jitt", "jit|fsdp|pmap"),
    ("train cnn.mlp --split=test", "--split is not a flag of `train`"),
    ("train cnn.mlp --task.model.width=3", "task.model.width"),
    ("train cnn.mlp --task.model.activation=rely", "rely"),
    ("train cnn.mlp --data.source=digit", "unknown data set 'digit'; perhaps you meant 'digits'"),
    ("train cnn.mlp --data.source=digits --data.fold=9", "--data.fold=9"),
    ("train cnn.mlp --data.source=digits --devices=99", "--devices=99"),
    ("train cnn.mlp --data.source=digits --data.batch_size=9 --devices=2", "--data.batch_size="),
    ("train cnn.mlp --data.source=digits --data.size=8 --best.metric=acuracy", "'accuracy'"),
    ("train ./gone.py:net", "no such file: gone.py"),
    ("evaluate", "--workdir=DIR"),
    ("evaluate --workdir=gone", "gone/experiment.json does not exist"),
    ("evaluate --workdir=gone --splt=test", "perhaps you meant '--split'"),
    ("evaluate --workdir=gone --split=tets", "train|validation|test"),
    ("evaluate --workdir=gone --steps=3", "unknown flag of `evaluate` '--steps'"),
    ("sample --workdir=gone --samples=0", "--samples=0"),
    ("report --workdir=gone --seed=3", "--seed is not a flag of `report`"),
    ("study", "which study?"),
    ("study cnn.lenet5_seed", "perhaps you meant 'cnn.lenet5_seeds'"),
    ("list cnn.lenet --summary", "perhaps you meant 'cnn.lenet5'"),
    ("export --workdir=gone", "gone/experiment.json does not exist"),
    ("export gone --format=keras", "h5|safetensors"),
    ("predict", "which images, and by which model?"),
    ("predict a.png", "dlcourse predict IMAGE… --model=FILE"),
    ("predict --model=gone.h5", "which images"),
    ("predict a.png b.png --model=gone.h5", "gone.h5 cannot be read: No such file"),
    ("predict a.png --modl=gone.h5", "perhaps you meant '--model'"),
    ("compress", "dlcourse compress IN OUT --workdir=DIR"),
    ("compress a.npz --workdir=gone", "what, where to, and by which model?"),
    ("compress a.npz a.dlbb --workdir=gone", "gone/experiment.json does not exist"),
    ("decompress a.dlbb a --workdr=gone", "perhaps you meant '--workdir'"),
    ("decompress a.dlbb a b --workdir=gone", "dlcourse decompress IN OUT"),
    ("list --all", "unknown flag of `list` '--all'"),
  ],
)
def test_what_cannot_be_used_is_said_on_standard_error_with_code_2(dlcourse, command, said):
  code, out, err = dlcourse(*command.split())
  assert code == 2
  assert said in err
  assert out == ""
  assert "Traceback" not in err
  one_line = err.startswith("dlcourse: ") and len(err.splitlines()) == 1
  assert one_line or "For full helptext, run dlcourse train --experiment=" in err  # the box that tyro draws


@pytest.mark.parametrize(
  "command",
  [
    "train gan.dcgan --data.source=digits --data.size=30",
    "train cnn.lenet5 --data.source=digits --data.size=28",
  ],
)
def test_a_size_that_the_network_does_not_take_is_refused_without_a_traceback(dlcourse, command):
  code, _, err = dlcourse(*command.split(), "--data.batch_size=8", "--devices=1")
  assert code == 2
  assert "--data.size" in err


def test_a_refused_command_does_not_stand_in_the_way_of_the_corrected_one(dlcourse, tmp_path):
  (tmp_path / "mine.py").write_text(OWN_FILE)
  assert dlcourse("train", "./mine.py:net", "--data.fold=9")[0] == 2
  code, _, err = dlcourse("train", "./mine.py:net", "--data.fold=4", "--devices=1")
  assert code == 0, err


def test_without_a_verb_and_with_help_the_verbs_are_shown(dlcourse):
  for args in ([], ["--help"], ["-h"], ["help"]):
    code, out, err = dlcourse(*args)
    assert (code, err) == (0, "")
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_its_flags(dlcourse, verb):
  code, out, err = dlcourse(verb, "--help")
  assert (code, err) == (0, "")
  assert VERBS[verb].run.__doc__ in out
  assert all(f"--{flag} " in out for flag in VERBS[verb].flags)


def test_help_of_an_experiment_shows_run_flags_and_fields(dlcourse):
  code, out, err = dlcourse("train", "cnn.lenet5", "--help")
  assert (code, err) == (0, "")
  assert "--steps_per_dispatch" in out
  assert "--task.optimizer.momentum" in out
  assert "--data.validation" in out
  assert "--small" not in out


def test_list_shows_every_experiment_and_study(dlcourse):
  code, out, _ = dlcourse("list")
  assert code == 0
  assert all(f" {name} " in out for name in [*catalogue(Experiment), *catalogue(Study)])


def test_list_shows_what_the_networks_of_an_experiment_cost(dlcourse, tmp_path):
  (tmp_path / "mine.py").write_text(OWN_FILE)
  for args in (["./mine.py:net", "--summary"], ["--summary", "--experiment=./mine.py:net"], ["./mine.py:net"]):
    code, out, err = dlcourse("list", *args)
    assert code == 0, err
    assert "Dense_0" in out
    assert "310" in out  # 64 * 4 + 4 + 4 * 10 + 10


def test_a_run_is_trained_then_measured_again_and_goes_on(dlcourse, tmp_path):
  (tmp_path / "mine.py").write_text(OWN_FILE)
  code, out, err = dlcourse("train", "./mine.py:net", "--devices=1", "--seed=3")
  assert code == 0, err
  assert "accuracy" in out
  result = json.loads((tmp_path / "runs/mine.net/result.json").read_text())
  assert (result["steps"], result["seed"]) == (2, 3)

  code, out, err = dlcourse("evaluate", "--workdir=runs/mine.net", "--devices=1")
  assert code == 0, err
  again = json.loads((tmp_path / "runs/mine.net/evaluate_test.json").read_text())
  assert again["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)

  code, _, err = dlcourse("sample", "--workdir=runs/mine.net", "--devices=1")
  assert code == 2
  assert "does not generate" in err

  code, _, err = dlcourse("train", "./mine.py:net", "--devices=1", "--seed=4")
  assert code == 2
  assert "seed was 3 and is now 4" in err

  (tmp_path / "other.py").write_text(OWN_FILE)
  sys.modules.pop("dlcourse_file_mine")  # as in another process
  again = ("train", "./other.py:net", "--init_from=runs/mine.net", "--devices=1")
  code, _, err = dlcourse(*again)
  assert code == 2
  assert "--recipe=FILE.py:FUNCTION" in err
  code, _, err = dlcourse(*again, "--recipe=mine.py:net")
  assert code == 0, err


def test_a_model_is_exported_and_asked_about_files(dlcourse, tmp_path):
  (tmp_path / "mine.py").write_text(OWN_FILE)
  assert dlcourse("train", "./mine.py:net", "--devices=1")[0] == 0
  Image.new("RGBA", (20, 30), (255, 0, 0, 128)).save(tmp_path / "[red].png")
  Image.new("L", (8, 8), 99).save(tmp_path / "grey.png")
  (tmp_path / "broken.png").write_bytes((tmp_path / "grey.png").read_bytes()[:40])

  code, out, err = dlcourse("export", "runs/mine.net")
  assert code == 0, err
  size = (tmp_path / "runs/mine.net/model.h5").stat().st_size
  assert out == f"runs/mine.net/model.h5: {size:,} bytes; keras.models.load_model opens it too\n"
  code, out, err = dlcourse("export", "runs/mine.net", "--output=m.safetensors")
  assert code == 0, err
  assert "m.safetensors" in out
  assert "Keras does not open it" in out

  images = ["[red].png", "broken.png", "grey.png"]
  code, expected, err = dlcourse("predict", *images, "--model=runs/mine.net")
  assert code == 0
  assert err.startswith("dlcourse: broken.png: cannot be decoded")
  assert err.count("\n") == 1
  assert expected.index("[red].png") < expected.index("grey.png")
  assert len(re.findall(r"│ \d +│ 0\.\d{4} ", expected)) == 10  # five classes of each image

  (tmp_path / "runs").rename(tmp_path / "gone")
  for model in ("gone/mine.net/model.h5", "m.safetensors"):
    code, out, err = dlcourse("predict", f"--model={model}", *images, "--recipe=mine.py:net")
    assert (code, out) == (0, expected), err
  (tmp_path / "mine.py").rename(tmp_path / "theirs.py")
  sys.modules.pop("dlcourse_file_mine")  # as in another process, to which nobody has named the file
  code, _, err = dlcourse("predict", *images, "--model=m.safetensors")
  assert code == 2
  assert "--recipe=FILE.py:FUNCTION" in err

  code, out, err = dlcourse("predict", "broken.png", "--model=m.safetensors", "--recipe=theirs.py:net")
  assert (code, out) == (2, "")
  assert err.startswith("dlcourse: broken.png: cannot be decoded")
  assert err.count("\n") == 1


def test_images_are_compressed_and_another_process_restores_them(dlcourse, tmp_path):
  made = {
    "net() -> Experiment": "vae() -> Experiment",
    "models.mlp import MLP": "models.vae import MLPVAE",
    "optim import Sgd": "optim import Adam",
    "supervised import Classify": "variational import Autoencode",
    "Classify(MLP(hidden_dims=(4,), norm=False), Sgd(": "Autoencode(MLPVAE(latent_dim=2), Adam(",
    "learning_rate=0.1)": 'learning_rate=0.01), likelihood="logistic"',
    'Best("accuracy", mode="max")': 'Best("loss")',
  }
  text = OWN_FILE
  for old, new in made.items():
    assert old in text
    text = text.replace(old, new)
  (tmp_path / "mine.py").write_text(text)
  images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)
  np.savez(tmp_path / "in.npz", images=images)
  assert dlcourse("train", "./mine.py:vae", "--devices=1")[0] == 0
  code, out, err = dlcourse("compress", "in.npz", "out.dlbb", "--workdir=runs/mine.vae")
  assert code == 0, err
  assert f"{(tmp_path / 'out.dlbb').stat().st_size} " in out
  code, _, err = dlcourse("compress", "in.npz", "out.dlbb", "--workdir=runs/mine.vae")
  assert (code, err) == (2, "dlcourse: out.dlbb is there already; name another, or remove it\n")
  command = [sys.executable, "-m", "dlcourse", "decompress", "out.dlbb", "back.npz", "--workdir=runs/mine.vae"]
  command.append("--recipe=mine.py:vae")
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 0, done.stderr
  with np.load(tmp_path / "back.npz") as arrays:
    np.testing.assert_array_equal(arrays["images"], images)


WITH_SYMBOLS = '''
"""One's own."""

from dlcourse.data.images import Images
from dlcourse.experiment import Experiment
from dlcourse.models.sequence import LanguageModel
from dlcourse.models.transformer import Layer, Transformer
from dlcourse.models.vq_vae import VQVAE
from dlcourse.optim import Adam
from dlcourse.tasks.code_prior import CodePrior


def prior() -> Experiment:
  """A tiny prior of symbols that mean nothing."""
  body = Transformer(Layer(8, 2), 1, causal=True, positions="learned")
  return Experiment(
    data=Images("digits", size=8, batch_size=64),
    task=CodePrior(VQVAE(num_codes=5, code_dim=2, width=4), LanguageModel(body, 8), Adam(), conditional=True),
    steps=2)
'''


def test_images_are_compressed_as_symbols_and_another_process_restores_the_same(dlcourse, tmp_path):
  (tmp_path / "mine.py").write_text(WITH_SYMBOLS)
  images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1)).astype(np.uint8)
  np.savez(tmp_path / "in.npz", images=images)
  assert dlcourse("train", "./mine.py:prior", "--devices=1")[0] == 0
  workdir = "--workdir=runs/mine.prior"
  code, out, err = dlcourse("compress", "in.npz", "out.dlvq", workdir)
  assert code == 0, err
  assert f"{(tmp_path / 'out.dlvq').stat().st_size} " in out
  assert "psnr" in out
  assert dlcourse("decompress", "out.dlvq", "here.npz", workdir)[0] == 0
  command = [sys.executable, "-m", "dlcourse", "decompress", "out.dlvq", "there.npz", workdir]
  command.append("--recipe=mine.py:prior")
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 0, done.stderr
  with np.load(tmp_path / "here.npz") as here, np.load(tmp_path / "there.npz") as there:
    assert here["images"].shape == images.shape
    np.testing.assert_array_equal(here["images"], there["images"])


@pytest.mark.parametrize(
  ("args", "code"), [(["trian"], 2), (["--help"], 0), (["evaluate", "--workdir=gone"], 2)]
)
def test_the_exit_code_reaches_the_shell(args, code):
  done = subprocess.run(
    [sys.executable, "-m", "dlcourse", *args], capture_output=True, text=True, timeout=120, check=False
  )
  assert done.returncode == code, done.stderr
  assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_one_line(dlcourse, tmp_path):
  (tmp_path / "mine.py").write_text(OWN_FILE)
  assert dlcourse("train", "./mine.py:net", "--devices=1")[0] == 0
  for manifest in (tmp_path / "runs/mine.net/checkpoints").rglob("manifest.ocdbt"):
    manifest.unlink()
  command = [sys.executable, "-m", "dlcourse", "evaluate", str(tmp_path / "runs/mine.net")]
  command.append("--recipe=mine.py:net")
  done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 2
  assert done.stderr.count("\n") == 1, done.stderr
  assert "is damaged" in done.stderr


def test_a_wrong_flag_is_found_without_loading_jax():
  code = (
    "import sys\nfrom dlcourse.__main__ import main\nsys.argv = ['dlcourse', 'train', '--seed=x']\n"
    "try: main()\nfinally: print('jax' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
  assert (done.returncode, done.stdout) == (2, "False\n")


def test_reads_that_were_given_up_are_not_said_after_the_one_that_failed(capsys):
  async def read():
    pass

  given_up = read()
  error = Exception("while reading array index")
  said = types.SimpleNamespace(
    exc_type=Exception, exc_value=error, exc_traceback=None, err_msg=None, object=given_up
  )
  _unraisablehook(said)
  given_up.close()
  assert capsys.readouterr().err == ""
  with pytest.MonkeyPatch.context() as patch:
    heard = []
    patch.setattr("sys.__unraisablehook__", heard.append)
    other = types.SimpleNamespace(exc_value=error, object=read)
    _unraisablehook(other)
  assert heard == [other]
