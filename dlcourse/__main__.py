"""The command line: verbs and their flags, no logic.

dlcourse train --experiment=cnn.lenet5 --task.model.activation=relu
"""

import errno
import inspect
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from dlcourse import platform
from dlcourse.errors import Preempted, UserError, unknown

platform.tune_malloc()  # before JAX starts its threads

from absl import app, flags, logging  # noqa: E402

FLAGS = flags.FLAGS
STUCK_AFTER = 600  # seconds: the others of a run would wait for ever
CRASHED, PREEMPTED = 17, 42  # exit codes by which a supervisor knows what to do

flags.DEFINE_string("experiment", None, "What to train: MODULE.NAME (see `list`) or FILE.py:FUNCTION.")
flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/NAME.")
flags.DEFINE_integer("seed", 0, "Seed of initialisation, data order and every random draw.", 0, 2**32 - 1)
flags.DEFINE_enum("parallel", "jit", ["jit", "fsdp", "pmap", "tensor"], "How the step is spread over devices.")
flags.DEFINE_integer("devices", None, "How many devices are used; default: all.", 1)
flags.DEFINE_integer(
  "tensor", None, "Devices that share each block under --parallel=tensor; default: all of a process.", 1
)
flags.DEFINE_integer("steps_per_dispatch", 1, "Training steps one compiled call makes.", 1)
flags.DEFINE_enum(
  "nonfinite", "stop", ["stop", "skip"], "What a NaN in a loss or gradient does: skip its batch."
)
flags.DEFINE_bool(
  "debug", False, "Check every operation for NaN, and every state: slow; says where one arises."
)
flags.DEFINE_float(
  "stuck_after",
  None,
  "Seconds after which a process whose step has not ended ends itself (6 times as many where it compiles); "
  f"0: never; default: {STUCK_AFTER} in a run of several processes, else never.",
  0.0,
)
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0; default: what the launcher says.")
flags.DEFINE_integer("processes", None, "How many processes the run has; default: what the launcher says.", 1)
flags.DEFINE_integer("process_id", None, "Which of them this is; default: what the launcher says.", 0)
flags.DEFINE_enum("checkpoint", "best", ["best", "last"], "Which checkpoint is used.")
flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Which split is measured.")
flags.DEFINE_integer("samples", 16, "How many samples are drawn.", 1, 100_000)
flags.DEFINE_string("prompt", None, "What a sampled text begins with, or what is to be answered.")
flags.DEFINE_integer("length", 500, "Symbols of a sampled text.", 1, 1_000_000)
flags.DEFINE_float("temperature", 1.0, "Below 1 prefers likely symbols or images; 0 takes the likeliest.", 0.0)
flags.DEFINE_string("condition", None, "The class of a conditional model's samples; default: each in turn.")
flags.DEFINE_bool("watermark", False, "Embed an invisible mark in sampled images; see dlcourse.watermark.")
flags.DEFINE_bool("threshold", False, "Compress grey images as black and white ones: so they come back.")
flags.DEFINE_bool("summary", False, "Layers with their costs: of every experiment, or of the one named.")
flags.DEFINE_enum("format", None, ["h5", "safetensors"], "Kind of file; default: as --output ends, else h5.")
flags.DEFINE_string("output", None, "File that is written; default: one in the workdir, as model.h5.")
flags.DEFINE_string(
  "model", None, "File that `export` has written, or a workdir; of `lab`: cnn, mlp, transfer or an experiment."
)
flags.DEFINE_string(
  "recipe", None, "FILE.py:FUNCTION, for what was trained with a recipe of one's own: its code is run."
)
flags.DEFINE_string(
  "data",
  None,
  "Folder of images, one sub-folder per class, or CSV of file and label; for `lab` a data set too.",
)
flags.DEFINE_string("study", None, "Which study to run: MODULE.NAME (see `list`).")
flags.DEFINE_enum("language", "en", ["en", "fr"], "Of the slides; those that are there stay as they are.")
flags.DEFINE_string("notes", None, "Your own notes as Markdown: a heading becomes a slide.")
flags.DEFINE_integer("port", None, "Port of the app; default: the first free one from 7860.", 1, 65535)


def _options():
  from dlcourse.experiment import Options

  stuck_after = FLAGS.stuck_after
  if stuck_after is None and _of_several():
    stuck_after = STUCK_AFTER
  return Options(
    FLAGS.seed,
    FLAGS.parallel,
    FLAGS.devices,
    FLAGS.steps_per_dispatch,
    FLAGS.tensor,
    FLAGS.nonfinite,
    FLAGS.debug,
    stuck_after or None,
  )


def _workdir(name: str | None) -> pathlib.Path:
  if FLAGS.workdir == "":
    raise UserError("--workdir= names no folder; leave it out for runs/NAME")
  if FLAGS.workdir:
    return pathlib.Path(FLAGS.workdir)
  if name is None:
    raise UserError("which run? name its folder with --workdir=DIR")
  return pathlib.Path("runs") / (pathlib.Path(name).name.replace(".py:", ".") if ".py:" in name else name)


def _trained():
  from dlcourse.trained import open_trained

  if FLAGS.workdir and FLAGS.experiment:
    raise UserError("--workdir says which run it is; leave --experiment out")
  named = FLAGS.experiment if ".py:" in (FLAGS.experiment or "") else None
  path = _workdir(FLAGS.experiment)
  return open_trained(path, FLAGS.checkpoint, FLAGS.devices, FLAGS.recipe or named)


def train(rest: list[str]) -> None:
  """Trains an experiment, or goes on where it was stopped; then writes its report."""
  from dlcourse import console
  from dlcourse.distributed import start_distributed
  from dlcourse.experiment import find, load
  from dlcourse.train import train as run
  from dlcourse.trained import open_trained, report

  if not FLAGS.experiment:
    raise UserError("which experiment? --experiment=NAME; `dlcourse list` shows them")
  experiment = load(FLAGS.experiment, rest)
  if FLAGS.recipe:
    find(FLAGS.recipe)  # of a workdir that the network begins with; only a file that is named is run
  start_distributed(FLAGS.coordinator, FLAGS.processes, FLAGS.process_id)
  path = _workdir(FLAGS.experiment)
  run(FLAGS.experiment, rest, experiment, path, _options())
  devices = None if FLAGS.parallel == "tensor" else FLAGS.devices  # which perhaps cannot share a batch
  console.show_result(path, report(open_trained(path, devices=devices)))


def lab(rest: list[str]) -> None:
  """Trains a classifier of your own images, in sizes that suit them, and writes its report (Practical Work)."""
  from dlcourse import console
  from dlcourse.lab import run
  from dlcourse.trained import open_trained, report

  path = pathlib.Path(FLAGS.workdir) if FLAGS.workdir else _workdir("lab")
  run(FLAGS.data, FLAGS.model or "cnn", rest, path, _options())
  console.show_result(path, report(open_trained(path, devices=FLAGS.devices)))
  _say(f"next: dlcourse predict IMAGE… --model={path}, dlcourse app, slides or submit --workdir={path}")


def evaluate(rest: list[str]) -> None:
  """Measures a trained experiment on a split."""
  from dlcourse import console
  from dlcourse.trained import evaluate as run

  del rest
  console.show_values(run(_trained(), FLAGS.split), title=FLAGS.split)


def sample(rest: list[str]) -> None:
  """Draws images or text from a trained experiment."""
  from dlcourse import console
  from dlcourse.evaluators.samples import Request
  from dlcourse.trained import sample as run

  del rest
  request = Request(FLAGS.samples, FLAGS.prompt, FLAGS.length, FLAGS.temperature, FLAGS.condition)
  console.show_samples(run(_trained(), request, FLAGS.seed, FLAGS.watermark))


def report(rest: list[str]) -> None:
  """Writes the report of a trained experiment: curves, tables, pictures."""
  from dlcourse import console
  from dlcourse.trained import report as run

  del rest
  trained = _trained()
  console.show_result(trained.path, run(trained))


def export(rest: list[str]) -> None:
  """Writes a trained model as one file that needs no workdir; Keras opens an .h5 of plain layers."""
  from dlcourse import console
  from dlcourse.exported import export as run
  from dlcourse.interop.h5_file import keras_opens

  del rest
  trained = _trained()
  output = pathlib.Path(FLAGS.output) if FLAGS.output else None
  kind = FLAGS.format or ("safetensors" if output and output.suffix == ".safetensors" else "h5")
  file = run(trained, kind, output or trained.path / f"model.{kind}")
  console.show_file(file, kind == "h5" and keras_opens(file))


def predict(rest: list[str]) -> None:
  """Says what is on single images: the likeliest classes of a trained or exported classifier."""
  from dlcourse import console
  from dlcourse.classifier import answers, open_classifier
  from dlcourse.data.image_files import BadImage

  if not rest or not FLAGS.model:
    raise UserError("which images, and by which model? dlcourse predict IMAGE… --model=FILE (or WORKDIR)")
  answered = 0
  for answer in answers(open_classifier(pathlib.Path(FLAGS.model), FLAGS.checkpoint, FLAGS.recipe), rest):
    if isinstance(answer, BadImage):
      _say(f"{answer}")
    else:
      console.show_answer(answer.image, answer.likeliest)
      answered += 1
  if not answered:
    sys.exit(2)


def show_app(rest: list[str]) -> None:
  """Shows a trained or exported model in the browser: asks a classifier about images, lets others make some."""
  import tempfile

  del rest
  if bool(FLAGS.workdir) == bool(FLAGS.model):
    raise UserError("which model? dlcourse app --workdir=DIR, or --model=FILE that `export` has written")
  with tempfile.TemporaryDirectory(prefix="dlcourse-app-") as folder:
    os.environ["GRADIO_TEMP_DIR"] = folder  # for what the page is given and makes; read at Gradio's import
    try:
      from dlcourse.app.window import run
    except ModuleNotFoundError as error:
      if error.name != "gradio":
        raise
      raise UserError("the app needs Gradio: pip install 'dlcourse[app]'") from error
    run(pathlib.Path(FLAGS.workdir or FLAGS.model), FLAGS.checkpoint, FLAGS.recipe, FLAGS.port)
  _leave_at_once(0)  # XLA aborts where a thread of the server still compiles as the interpreter ends


def slides(rest: list[str]) -> None:
  """Writes a presentation of a trained image classifier that PowerPoint edits: data, model, curves, errors."""
  del rest
  try:
    from dlcourse.slides.write import write_slides
  except ModuleNotFoundError as error:
    if error.name != "pptx":
      raise
    raise UserError("slides need python-pptx: pip install 'dlcourse[report]'") from error
  path = _workdir(None)
  output = pathlib.Path(FLAGS.output) if FLAGS.output else path / "slides.pptx"
  print(write_slides(path, output, FLAGS.language, pathlib.Path(FLAGS.notes) if FLAGS.notes else None))


def submit(rest: list[str]) -> None:
  """Writes the archive of a trained image classifier for handing it in: source, model, curves, slides."""
  from dlcourse.handin import submit as run

  del rest
  trained = _trained()
  output = pathlib.Path(FLAGS.output) if FLAGS.output else trained.path / "submission.zip"
  print(run(trained, output, FLAGS.language, FLAGS.recipe))


def grade(rest: list[str]) -> None:
  """Checks archives that were handed in, and runs their models on images that were held back."""
  from dlcourse import console
  from dlcourse.grading import check_table, write_grades
  from dlcourse.grading import grade as run

  if not rest or not FLAGS.data:
    raise UserError("which archives, and on which images? dlcourse grade ARCHIVE… --data=FOLDER")
  if FLAGS.output:
    check_table(pathlib.Path(FLAGS.output))
  grades = list(run([pathlib.Path(archive) for archive in rest], pathlib.Path(FLAGS.data), FLAGS.recipe))
  console.show_grades(grades)
  if FLAGS.output:
    write_grades(grades, pathlib.Path(FLAGS.output))
  if all(grade.measured is None for grade in grades):
    sys.exit(2)


def compress(rest: list[str]) -> None:
  """Compresses small images by a VAE, or with loss by a VQ-VAE and its prior: a folder, image, .npz or IDX."""
  from dlcourse import console
  from dlcourse.codec import compress as run

  source, file = _two_paths("compress", rest)
  console.show_values(run(_trained(), source, file, FLAGS.threshold), title=str(file))


def decompress(rest: list[str]) -> None:
  """Restores the images of a compressed file: as PNG files in a new folder, or as FILE.npz."""
  from dlcourse import console
  from dlcourse.codec import decompress as run

  file, target = _two_paths("decompress", rest)
  console.show_values({"images": run(_trained(), file, target)}, title=str(target))


def _two_paths(verb: str, rest: list[str]) -> tuple[pathlib.Path, pathlib.Path]:
  if len(rest) != 2 or not FLAGS.workdir:
    raise UserError(f"what, where to, and by which model? dlcourse {verb} IN OUT --workdir=DIR")
  return pathlib.Path(rest[0]), pathlib.Path(rest[1])


def stream(rest: list[str]) -> None:
  """Reads text or samples from standard input, line by line, and answers as they arrive (JSON lines)."""
  import json

  from dlcourse.streaming import answers

  del rest
  for answer in answers(_trained(), sys.stdin):
    print(json.dumps(answer, ensure_ascii=False), flush=True)


def study(rest: list[str]) -> None:
  """Runs the trainings of a study and writes what they say together."""
  from dlcourse import console
  from dlcourse.experiment import Study, find
  from dlcourse.study import run_study

  if not FLAGS.study:
    raise UserError("which study? --study=NAME; `dlcourse list` shows them")
  path = _workdir(FLAGS.study)
  console.show_study(path, run_study(find(FLAGS.study, Study)(), path, rest, _options()))


def handbook(rest: list[str]) -> None:
  """Measures what the handbook claims, in all its sections or in one, and writes a page of verdicts."""
  from dlcourse.handbook import page

  if len(rest) > 1:
    raise UserError("one section: dlcourse handbook 2.10")
  folder = pathlib.Path(FLAGS.output or "handbook")
  rows = page.write_page(page.of_section(rest[0] if rest else None), folder)
  _say(f"{page.summary(rows)}: {folder / 'index.html'}")


def show_list(rest: list[str]) -> None:
  """Shows every experiment and study, and whether its result has been run; or what networks cost."""
  from dlcourse import console

  del rest
  if FLAGS.experiment:
    console.show_summary(FLAGS.experiment)
  elif FLAGS.summary:
    console.show_summaries()
  else:
    console.show_catalogue()


class Verb(NamedTuple):
  """A verb and the flags it reads, of which the first may be given without its name.

  `fields` says whether fields of an experiment are flags too, `many` what is given in place of that first flag.
  """

  run: Callable[[list[str]], None]
  flags: tuple[str, ...] = ()
  fields: bool = False
  many: str = ""


RUN = (
  *("workdir", "parallel", "devices", "tensor", "steps_per_dispatch"),
  *("nonfinite", "debug", "stuck_after"),
)
PROCESSES = ("coordinator", "processes", "process_id")
HELP = ("-h", "--help", "--helpfull", "--helpshort")
WORKDIR = ("workdir", "experiment", "checkpoint", "devices", "recipe")
VERBS = {
  "train": Verb(train, ("experiment", *RUN, "seed", "recipe", *PROCESSES), fields=True),
  "lab": Verb(lab, ("data", "model", *RUN, "seed"), fields=True),
  "evaluate": Verb(evaluate, (*WORKDIR, "split")),
  "sample": Verb(
    sample, (*WORKDIR, "samples", "prompt", "length", "temperature", "condition", "seed", "watermark")
  ),
  "export": Verb(export, (*WORKDIR, "format", "output")),
  "predict": Verb(predict, ("model", "checkpoint", "recipe"), many="IMAGE…"),
  "app": Verb(show_app, ("workdir", "model", "checkpoint", "recipe", "port")),
  "slides": Verb(slides, ("workdir", "language", "notes", "output")),
  "submit": Verb(submit, ("workdir", "language", "recipe", "output")),
  "grade": Verb(grade, ("data", "recipe", "output"), many="ARCHIVE…"),
  "compress": Verb(compress, ("workdir", "checkpoint", "recipe", "threshold"), many="IN OUT"),
  "decompress": Verb(decompress, ("workdir", "checkpoint", "recipe"), many="IN OUT"),
  "stream": Verb(stream, WORKDIR),
  "study": Verb(study, ("study", *RUN), fields=True),
  "report": Verb(report, WORKDIR),
  "handbook": Verb(handbook, ("output",), many="[SECTION]"),
  "list": Verb(show_list, ("experiment", "summary")),
}


def _help(name: str | None) -> str:
  """Verbs, or one verb with its flags."""
  if name is None:
    verbs = (f"  {verb:<12}{v.run.__doc__}" for verb, v in VERBS.items())
    return "\n".join(["usage: dlcourse VERB [--flag=value]…", "", *verbs, "", "dlcourse VERB --help"])
  verb = VERBS[name]
  rows = []
  for flag in (FLAGS[flag] for flag in verb.flags):
    default = "" if flag.default is None else f" (default: {flag.default})"
    rows.append(f"  --{flag.name:<20}{flag.help}{default}")
  many, more = f" {verb.many}" if verb.many else "", " [--any.field=VALUE]…" if verb.fields else ""
  return "\n".join([f"usage: dlcourse {name}{many} [--flag=value]…{more}", "", verb.run.__doc__, "", *rows])


def _parse(argv: list[str]) -> tuple[Verb, list[str]]:
  """argv -> the verb and what absl did not take (the fields of the experiment, or what it takes many of)."""
  name = argv[1] if len(argv) > 1 else "--help"
  if name in (*HELP, "help"):
    print(_help(None))
    sys.exit(0)
  if name not in VERBS:
    raise unknown("verb", name, VERBS)
  verb = VERBS[name]
  args = _named(verb, argv[2:])
  try:  # without --help, which absl would answer itself, with every flag there is
    _, *rest = FLAGS([argv[0], *(arg for arg in args if arg not in HELP)], known_only=True)
  except flags.Error as error:
    raise UserError(str(error)) from error
  for flag in FLAGS.flag_values_dict():
    if FLAGS[flag].present and flag not in verb.flags and any(flag in v.flags for v in VERBS.values()):
      raise UserError(f"--{flag} is not a flag of `{name}`; see dlcourse {name} --help")
  if set(HELP) & set(args):
    print(_help(name))
    if name == "study" and FLAGS.study:
      _show_runs(FLAGS.study)
    if not (verb.fields and FLAGS.experiment):
      sys.exit(0)
    rest.append("--help")  # for the fields of the experiment
  stray = [] if verb.fields else [arg for arg in rest if not verb.many or arg.startswith("-")]
  if stray:
    raise unknown(f"flag of `{name}`", stray[0].split("=")[0], (f"--{flag}" for flag in verb.flags))
  return verb, rest


def _show_runs(name: str) -> None:
  from dlcourse import console
  from dlcourse.experiment import Study, find

  console.show_runs(find(name, Study)())


def _named(verb: Verb, args: list[str]) -> list[str]:
  """`train NAME`, `study NAME` and `evaluate DIR` mean --experiment=NAME, --study=NAME and --workdir=DIR."""
  if verb.flags and not verb.many and args and not args[0].startswith("-"):
    return [f"--{verb.flags[0]}={args[0]}", *args[1:]]
  return args


def _run(argv: list[str]) -> None:
  verb, rest = argv
  platform.enable_compilation_cache()
  verb.run(rest)


def _say(line: str) -> None:
  sys.stderr.write(f"\ndlcourse: {line}\n" if sys.stderr.isatty() else f"dlcourse: {line}\n")  # at once


def _unraisablehook(said: "sys.UnraisableHookArgs") -> None:
  """Leaves out what follows an error that has been said: of TensorStore's threads, of files on a full disk.

  So are the other reads of a checkpoint of which one has failed; Orbax makes each a coroutine.
  """
  full = isinstance(said.exc_value, OSError) and said.exc_value.errno == errno.ENOSPC
  if not full and not inspect.iscoroutine(said.object) and str(said.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(said)


def _of_several() -> bool:
  """Whether this is one of the processes of a run."""
  jax = sys.modules.get("jax")
  return jax is not None and jax.process_count() > 1


def _crash() -> None:
  """Leaves after an error that is nobody's input; at once where others wait: they notice within a second."""
  traceback.print_exc()
  if _of_several():
    _leave_at_once(CRASHED)
  sys.exit(CRASHED)


def _leave_at_once(code: int) -> None:
  """Without the half second in which libraries tidy up."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _asked_to_end(number: int, frame: FrameType | None) -> None:
  raise Preempted("asked to end; the same command goes on from the last checkpoint, or begins again")


def main() -> None:
  """Entry point: 0 done, 2 what the user gave cannot be used, 17 crashed, 42 asked to end, 130 interrupted."""
  sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - closed by cron, for one
  sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
  for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to stop
  sys.unraisablehook = _unraisablehook
  threading.excepthook = lambda said: logging.debug("in %s: %s", said.thread, said.exc_value)  # raised again
  logging.set_verbosity(logging.WARNING)  # Orbax alone has 40 lines a run to say at INFO
  signal.signal(signal.SIGTERM, _asked_to_end)
  try:
    app.run(_run, flags_parser=_parse)
  except UserError as error:
    _say(f"{error}")
    sys.exit(2)
  except BrokenPipeError:  # the reader of the output (head, less) has left; Python would complain at its end
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)
  except OSError as error:
    if error.filename is None and error.errno != errno.ENOSPC:
      _crash()
    _say(f"{error.filename2 or error.filename or 'the output'} cannot be used: {error.strerror}")
    sys.exit(2)
  except Preempted as said:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm asks the rest again as soon as one process has left
    _say(f"{said}")
    if not _of_several():  # who have to say goodbye to each other
      _leave_at_once(PREEMPTED)
    sys.exit(PREEMPTED)
  except Exception:
    _crash()
  except KeyboardInterrupt:
    _say("interrupted; the same command goes on from the last checkpoint")
    sys.exit(130)


if __name__ == "__main__":
  main()
