"""The presentation of a trained image classifier (Practical Work, 7): what each slide shows."""

import io
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import BinaryIO

from matplotlib.figure import Figure
from PIL import Image
from pptx.presentation import Presentation as Deck

from dlcourse.errors import UserError
from dlcourse.report.drawing import CAPTION, architecture
from dlcourse.report.figures import confusion_figure
from dlcourse.report.layers import summary_rows
from dlcourse.slides.challenges import augmentations, challenges, dropout, limits, stratified
from dlcourse.slides.deck import (
  BODY,
  TITLE_SIZE,
  Box,
  Bullet,
  add_slide,
  add_title,
  new_deck,
  pages,
  put_bars,
  put_lines,
  put_picture,
  put_shaded,
  put_table,
  put_text,
)
from dlcourse.slides.measure import clipped
from dlcourse.slides.notes import Section, sections
from dlcourse.slides.recorded import Recorded, interval, read_recorded
from dlcourse.slides.words import Language, Voice
from dlcourse.whole_file import whole_file
from dlcourse.workdir import read_record

MOST_CLASSES = 12  # of a confusion matrix that is a table
_BARS, _BARS_BELOW = 14, 12  # of a chart, of one below a table
_NAMED = 12  # classes whose names are listed
_POINTS = 200  # of a line
_LAYERS = 12  # rows of the table of layers, if they can be grouped into so few
_CONFUSIONS = 8
_SHEET_ROW = 2.05 / 9.6  # height of a row of the sheet of errors, in its widths, see `figures.labelled_images`
_SHEET_ROWS = 2  # that are shown
_LONGEST_NOTES = 2**18  # bytes
_PIXELS = 2_400  # of the longer side of a picture, about
_LEFT = Box(BODY.left, BODY.top, 6.2, BODY.height)
_RIGHT = Box(7.1, BODY.top, 5.63, BODY.height)
_ABOVE = BODY._replace(height=4.95)  # with a line of text below
_BELOW = Box(BODY.left, 6.45, BODY.width, 0.55)


def write_slides(
  path: pathlib.Path, file: pathlib.Path, language: Language = "en", notes: pathlib.Path | None = None
) -> pathlib.Path:
  """Writes the presentation of a workdir, whole or not at all.

  Args:
    path: the workdir of an image classifier, after its report.
    file: is written; it must not be there yet, for a person may have edited it.
    language: of every word.
    notes: Markdown; each heading becomes a slide, what is before the first one is added to the challenges.

  Returns:
    `file`.

  Raises:
    UserError: no such workdir, no classifier, no report yet; or the file is there, or cannot be written.
  """
  read_record(path)
  if file.suffix != ".pptx":
    raise UserError(f"--output={file} should end in .pptx, which is what the file will be")
  if file.exists():
    raise UserError(
      f"{file} is there already, perhaps with your own changes; name another --output, or remove it"
    )
  if not file.parent.is_dir():
    raise UserError(f"--output={file} cannot be written: {file.parent} is no folder")
  run, own = read_recorded(path), _read_notes(notes) if notes else []
  deck = _deck(run, Voice(language), own)
  with whole_file(file) as temporary:
    deck.save(temporary)
  return file


def _read_notes(file: pathlib.Path) -> list[Section]:
  try:
    data = file.read_bytes()
    if len(data) > _LONGEST_NOTES:
      raise UserError(f"--notes={file} is longer than {_LONGEST_NOTES:,} bytes")
    return sections(data.decode("utf-8-sig"))
  except OSError as error:
    raise UserError(f"--notes={file} cannot be read: {error.strerror}") from error
  except UnicodeDecodeError as error:
    raise UserError(f"--notes={file} is no text in UTF-8") from error


def _deck(run: Recorded, say: Voice, own: Sequence[Section]) -> Deck:
  what = ", ".join(run.classes) if len(run.classes) <= 5 else say("n_classes", n=len(run.classes))
  deck = new_deck(say("title", what=what))
  _title(deck, run, say)
  _data(deck, run, say)
  _preprocessing(deck, run, say)
  _model(deck, run, say)
  _training(deck, run, say)
  _curves(deck, run, say)
  _results(deck, run, say)
  _baselines(deck, run, say)
  _confusion(deck, run, say)
  _errors(deck, run, say)
  facts = [
    [Bullet(head, bold=True), *(Bullet(text, level=1) for text in rest)] for head, *rest in challenges(run, say)
  ]
  first = [section for section in own if not section.heading]
  facts += [
    [Bullet(say("notes"), bold=True), *(b._replace(level=1) for b in section.bullets)] for section in first
  ]
  _bulleted(deck, say("challenges"), facts)
  for section in own:
    if section.heading:
      _bulleted(deck, section.heading, [[bullet] for bullet in section.bullets])
  _conclusion(deck, run, say)
  return deck


def _bulleted(deck: Deck, title: str, groups: Sequence[Sequence[Bullet]]) -> None:
  """As many slides as the bullets take."""
  found = pages(groups)
  for number, page in enumerate(found, 1):
    more = f" ({number}/{len(found)})" if len(found) > 1 else ""
    add_slide(deck, clipped(title, BODY.width - 2, TITLE_SIZE) + more, page)


def _model_name(run: Recorded) -> str:
  return str(run.settings.get("task.model!") or run.settings.get("task!"))


def _title(deck: Deck, run: Recorded, say: Voice) -> None:
  name = pathlib.Path(run.record["experiment"]).name  # of a file of one's own, without its folder
  lines = [say("title_model", model=_model_name(run), experiment=name)]
  lines += [say("title_date", date=str(run.record["created"])[:10])] if "created" in run.record else []
  add_title(deck, deck.core_properties.title, lines)


def _data(deck: Deck, run: Recorded, say: Voice) -> None:
  sizes = {split: n for split, n in run.record.get("data", {}).items() if isinstance(n, int)}
  bullets = [Bullet(say("source", source=_source(run, say)))]
  bullets += [Bullet(say("images", n=say.count(sum(sizes.values()))))] if sizes else []
  names = ", ".join(clipped(name, 2.5, 18) for name in run.classes[:_NAMED])
  if len(run.classes) > _NAMED:
    names = say("more", names=names, n=len(run.classes) - _NAMED)
  bullets.append(Bullet(say("classes", n=len(run.classes), names=names)))
  (page, *_) = pages([bullets], _LEFT)
  slide = add_slide(deck, say("data"), page, _LEFT)
  described = _described(run)
  if described:
    slide.notes_slide.notes_text_frame.text = described
  used = 0.0
  if sizes:
    order = sorted(sizes, key=["train", "validation", "test"].index)
    rows = [[say("split"), say("split_images")], *([say(split), say.count(sizes[split])] for split in order)]
    used = put_table(slide, rows, _RIGHT) + 0.2
  counts, title = (run.per_class, "per_class") if run.per_class else (run.tested_per_class, "per_class_test")
  if len(counts) > _BARS_BELOW:
    counts = {name: counts[name] for name in sorted(counts, key=counts.get)[:_BARS_BELOW]}
    title = "per_class_rare"
  box = _RIGHT._replace(top=_RIGHT.top + used, height=_RIGHT.height - used)
  put_bars(slide, box, say(title, n=len(counts)), counts, share=False)


def _source(run: Recorded, say: Voice) -> str:
  source = str(run.settings.get("data.source", run.settings["data!"]))
  if say.knows(f"source_{source}"):
    return say(f"source_{source}")
  kind, _, place = source.partition(":")
  key = f"source_{kind}"
  name = place if kind == "tfds" else pathlib.PurePath(place).name  # the whole path is nobody's business
  return say(key, name=name) if place and say.knows(key) else source


def _described(run: Recorded) -> str:
  """What the report says of the data, with licence and citation."""
  index = run.report / "index.md"
  text = index.read_text(encoding="utf-8", errors="replace") if index.exists() else ""
  found = re.search(r"^## Data\n\n(.+)$", text, re.MULTILINE)
  return "".join(letter for letter in found[1] if letter.isprintable()) if found else ""


def _preprocessing(deck: Deck, run: Recorded, say: Voice) -> None:
  settings = run.settings
  size, scale = settings["data.size"], str(settings.get("data.scale"))
  numbers = 1
  for side in run.layers[0].input:
    numbers *= side
  channels = "colour" if numbers == 3 * size * size else "grey"
  bullets = [say("size", size=size, channels=say(channels))]
  bullets.append(say(f"scale_{scale}") if say.knows(f"scale_{scale}") else say("scale_other", name=scale))
  changed = augmentations(settings, say)
  bullets.append(say("augment", what=", ".join(changed)) if changed else say("no_augment"))
  if stratified(run):
    bullets.append(say("test_fold", folds=settings["data.folds"]))
    bullets.append(say("validation_share", share=say.share(settings["data.validation"])))
  bullets.append(say("batch", n=say.count(settings["data.batch_size"])))
  _bulleted(deck, say("preprocessing"), [[Bullet(text)] for text in bullets])


def _model(deck: Deck, run: Recorded, say: Voice) -> None:
  slide = add_slide(deck, say("drawing", model=_model_name(run)))
  figure = architecture(run.layers)
  for text in figure.axes[0].texts:
    text.set_text(say("drawing_said") if text.get_text() == CAPTION else _named(text.get_text(), say))
  put_picture(slide, _picture(figure), BODY, say("drawing_words"))
  columns = ("layer", "kind", "output", "parameters", "multiply-adds")
  *rows, total = summary_rows(run.layers, _LAYERS)
  total = total | {"layer": say("all")}
  most = _LAYERS + 2
  rows = [*rows[:most], dict.fromkeys(columns, "…")] if len(rows) > most else rows
  head = [say(column.replace("-", "_")) for column in columns]
  cells = [[_localised(row[column], say) for column in columns] for row in (*rows, total)]
  put_table(add_slide(deck, say("layers")), [head, *cells], BODY, numbers=2)


def _named(name: str, say: Voice) -> str:
  """What is called so, in another language if there is a word for it."""
  key = f"name_{name}".replace(" ", "_")
  return say(key) if say.knows(key) else name


def _localised(text: str, say: Voice) -> str:
  """A number of a table as the language writes it."""
  return say.count(int(text.replace(",", ""))) if re.fullmatch(r"[\d,]+", text) else text


def _training(deck: Deck, run: Recorded, say: Voice) -> None:
  settings, result = run.settings, run.result
  patience, every = settings.get("best.patience"), say.count(settings["eval_every"])
  rate, schedule = settings.get("task.optimizer.learning_rate"), settings.get("task.optimizer.schedule")
  decay, kind = settings.get("task.optimizer.weight_decay"), settings.get("task.optimizer!")
  rows = [
    ("optimizer", str(kind) if kind else None),
    ("learning_rate", say.number(rate) if rate else None),
    ("schedule", (say(schedule) if say.knows(schedule) else schedule) if schedule else None),
    ("weight_decay", say.number(decay) if decay else None),
    ("dropout", say.number(dropout(settings)) if dropout(settings) else None),
    ("batch_size", say.count(settings["data.batch_size"])),
    ("steps", say("steps_of", n=say.count(result["steps"]), most=say.count(settings["steps"]))),
    ("patience", say("patience_value", n=patience, every=every) if patience else say("never")),
    ("seed", str(run.record["seed"])),
    ("time", say.time(result["seconds"])),
    ("energy", _energy(run, say)),
    ("device", f"{run.record['devices'].get('count')} × {run.record['devices'].get('kind')}"),
  ]
  cells = [[say(name), value] for name, value in rows if value is not None]
  put_table(add_slide(deck, say("training")), [[say("setting"), say("value")], *cells], BODY, numbers=0)


def _energy(run: Recorded, say: Voice) -> str | None:
  """See `dlcourse.energy`."""
  spent = run.result.get("energy", {})
  if not {"wh", "co2_g"} <= set(spent):
    return None
  return say("energy_value", wh=say.number(spent["wh"], 2), grams=say.number(spent["co2_g"], 2))


def _curves(deck: Deck, run: Recorded, say: Voice) -> None:
  best = run.result["best_step"]
  found = {}
  for name in ("loss", "accuracy"):
    lines = {say(split): _thinned(run.logged(split, name)) for split in ("train", "validation")}
    lines = {split: points for split, points in lines.items() if points}
    values = [value for points in lines.values() for _, value in points]
    if values and best is not None:
      lines[say("best_step")] = [(best, min(values)), (best, max(values))]
    if values:
      found[name] = lines
  if not found:
    return
  slide = add_slide(deck, say("curves"))
  width = (BODY.width - 0.3 * (len(found) - 1)) / len(found)
  for number, (name, lines) in enumerate(found.items()):
    box = Box(BODY.left + number * (width + 0.3), BODY.top, width, _ABOVE.height)
    put_lines(slide, box, say(name), lines, say("step"), share=name == "accuracy")
  loss, accuracy = (run.at("validation", name, best) for name in ("loss", "accuracy"))
  if loss is not None and accuracy is not None:
    text = say("best_said", step=say.count(best), loss=say.number(loss), accuracy=say.share(accuracy))
    put_text(slide, text, _BELOW, size=20)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
  """Every so many points, and the last one."""
  every = -(-len(points) // _POINTS)
  return [*points[:-1:every], *points[-1:]] if points else []


def _results(deck: Deck, run: Recorded, say: Voice) -> None:
  known = [name for name in run.test if say.knows(f"m_{name}")]
  shares = [name for name in known if name.startswith(("accuracy", "macro", "best"))]
  others = [name for name in known if name not in shares]
  rows = [[say(f"m_{name}"), say.share(run.test[name])] for name in sorted(shares)]
  rows += [[say(f"m_{name}"), say.number(run.test[name])] for name in others]
  slide = add_slide(deck, say("results"))
  put_table(slide, [[say("measure"), say("value")], *rows], _LEFT)
  recalls = dict(list(run.recalls.items())[:_BARS])
  title = "recall_lowest" if len(run.recalls) > _BARS else "recall"
  put_bars(slide, _RIGHT, say(title, n=len(recalls)), recalls, share=True)


def _baselines(deck: Deck, run: Recorded, say: Voice) -> None:
  """Only where the run has compared, see `evaluators.image_baselines`."""
  if not run.baselines:
    return
  low, high = interval(round(run.test["accuracy"] * run.tested), run.tested)
  own = {"classifier": say("this_model", model=_model_name(run)), "accuracy": run.test["accuracy"]}
  rows = [own | {"accuracy_low": low, "accuracy_high": high, "seconds": run.result["seconds"]}, *run.baselines]
  cells = [
    [
      _named(str(row["classifier"]), say),
      say.share(row["accuracy"]),
      f"{say.share(row['accuracy_low'])} – {say.share(row['accuracy_high'])}",
      say.time(row["seconds"]),
    ]
    for row in sorted(rows, key=lambda row: -row["accuracy"])
  ]
  head = [say("method"), say("m_accuracy"), say("interval"), say("time")]
  put_table(add_slide(deck, say("baselines")), [head, *cells], BODY, numbers=3)


def _confusion(deck: Deck, run: Recorded, say: Voice) -> None:
  slide, used = add_slide(deck, say("confusion")), _ABOVE.height
  if len(run.classes) <= MOST_CLASSES:
    used = put_shaded(slide, say("corner"), run.classes, run.counts.tolist(), _ABOVE)
  else:
    figure = confusion_figure(run.counts, run.classes)
    matrix, scale = figure.axes
    matrix.set(xlabel=say("predicted"), ylabel=say("true_class"))
    scale.set_ylabel(say("row_share"))
    put_picture(slide, _picture(figure), _ABOVE, say("confusion_words"))
  put_text(slide, say("confusion_said"), _BELOW._replace(top=BODY.top + used + 0.1))


def _errors(deck: Deck, run: Recorded, say: Voice) -> None:
  wrong, sheet = sum(n for _, _, n in run.confusions), run.report / "worst_confusions.png"
  of = say.count(run.tested)
  if not wrong:
    add_slide(deck, say("confusions"), [Bullet(say("none_wrong", of=of))])
    return
  if sheet.exists():
    slide = add_slide(deck, say("errors"))
    put_picture(slide, sheet, _ABOVE, say("errors"), _top_rows(sheet))
    put_text(slide, say("errors_said"), _BELOW)
  slide = add_slide(deck, say("confusions"))
  pairs = [[label, other, say.count(n)] for label, other, n in run.confusions[:_CONFUSIONS]]
  head = [say("true_class"), say("predicted"), say("count")]
  used = put_table(slide, [head, *pairs], _LEFT._replace(height=4.8))
  lowest = [[name, say.share(recall)] for name, recall in list(run.recalls.items())[:_CONFUSIONS]]
  used = max(
    used, put_table(slide, [[say("class"), say("recall_column")], *lowest], _RIGHT._replace(height=4.8))
  )
  said = say("n_wrong", n=say.count(wrong), of=of, share=say.share(wrong / run.tested))
  put_text(slide, said, _BELOW._replace(top=BODY.top + used + 0.15), size=20)


def _picture(figure: Figure) -> BinaryIO:
  """A figure as a PNG."""
  file = io.BytesIO()
  dots = min(200, _PIXELS / max(figure.get_size_inches()))
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Glyph")  # a letter the font lacks is a box
    figure.savefig(file, format="png", dpi=dots, bbox_inches="tight")
  file.seek(0)
  return file


def _top_rows(sheet: pathlib.Path) -> float:
  """Which share of the sheet of errors its first rows are: of all, the letters would be too small."""
  with Image.open(sheet) as image:
    rows = max(1, round(image.height / image.width / _SHEET_ROW))
  return min(1.0, _SHEET_ROWS / rows)


def _conclusion(deck: Deck, run: Recorded, say: Voice) -> None:
  accuracy, device = run.test["accuracy"], run.record["devices"].get("kind")
  low, high = map(say.share, interval(round(accuracy * run.tested), run.tested))
  numbers = {"accuracy": say.share(accuracy), "n": say.count(run.tested), "low": low, "high": high}
  bullets = [Bullet(say("concluded", **numbers), bold=True)]
  if "macro_f1" in run.test:
    bullets.append(Bullet(say("concluded_f1", f1=say.share(run.test["macro_f1"]))))
  parameters, time = sum(layer.parameters for layer in run.layers), say.time(run.result["seconds"])
  bullets.append(Bullet(say("concluded_cost", parameters=say.count(parameters), time=time, device=device)))
  if len(run.recalls) > 1:
    (worst, least), *_, (best, most) = run.recalls.items()
    shares = {"low": say.share(least), "high": say.share(most)}
    bullets.append(Bullet(say("concluded_weak", best=best, worst=worst, **shares)))
  groups = [[bullet] for bullet in bullets]
  groups.append([Bullet(say("limits"), bold=True), *(Bullet(text, level=1) for text in limits(run, say))])
  _bulleted(deck, say("conclusion"), groups)
