"""The tab for one image: given or drawn, what the model says, why, and whether it is right."""

import gradio as gr
import numpy as np

from dlcourse.app import page, widgets
from dlcourse.app.asking import Upload, enlarged, entry, look, overlay, read
from dlcourse.app.ink import Ink, picture_of
from dlcourse.app.tried import Tried, score, with_truth
from dlcourse.classifier import Classifier
from dlcourse.data.image_files import FORMATS
from dlcourse.errors import UserError

_LIGHT, _DARK = "light on dark", "dark on light"
_BRUSH = 13  # half of the width, in pixels of a sketch of _SIDE, of strokes as thick as those of MNIST
_SIDE = 360
_NO_MAPS = (
  "This network has no feature maps, as those of convolutions, so there is no Grad-CAM of it: an MLP reads all "
  "pixels at once."
)


def build(classifier: Classifier, ink: Ink | None, tried: gr.State) -> None:
  """The tab.

  Args:
    classifier: who is asked.
    ink: how drawings are made like the training images; None: nothing can be drawn.
    tried: a tuple of `Tried`, to which each image is added.
  """
  current = gr.State(None)  # which of the tried ones is on show
  with gr.Row():
    with gr.Column(), gr.Tabs():
      with gr.Tab("Picture"):
        photo = widgets.photo(_SIDE)
        gr.Markdown(f"{', '.join(FORMATS)}; only this computer sees it.")
      if ink:
        with gr.Tab("Drawing"):
          sketch, tone, predict = _drawing(ink)
    with gr.Column():
      said = gr.HTML(page.note("Load an image, and the model says what is on it."))
      truth = gr.Dropdown(
        list(classifier.classes), value=None, label="Correct class, if you know it", visible=False
      )
      verdict, running = gr.HTML(), gr.HTML(page.tally(0, 0))
  with gr.Row(visible=False) as pictures:
    seen = widgets.picture("As the network sees it", _SIDE)
    heat = widgets.picture("Grad-CAM: what speaks for the answer", _SIDE, visible=bool(classifier.evidence))
    if not classifier.evidence:
      gr.HTML(page.note(_NO_MAPS))
  shown = [said, truth, verdict, pictures, seen, heat, tried, current]

  def nothing(text: str, tried: tuple[Tried, ...]):
    return text, gr.Dropdown(value=None, visible=False), "", gr.Row(visible=False), None, None, tried, None

  def asked(pixels: np.ndarray, name: str, tried: tuple[Tried, ...]):
    found = look(classifier, pixels)
    return (
      page.answer(classifier.classes, found.shares),
      gr.Dropdown(value=None, visible=True),
      "",
      gr.Row(visible=True),
      enlarged(found.pixels),
      None if found.heat is None else overlay(found.pixels, found.heat),
      (*tried, entry(classifier, name, found.shares)),
      len(tried),
    )

  def given(upload: Upload | None, tried: tuple[Tried, ...]):
    if upload is None:
      return nothing(page.note("Load an image, and the model says what is on it."), tried)
    try:
      return asked(read(classifier, upload), upload.name, tried)
    except UserError as error:
      return nothing(page.problem(error), tried)

  def drawn(sketch: np.ndarray | None, tone: str, tried: tuple[Tried, ...]):
    try:
      blank = np.full((1, 1, 3), 255, np.uint8)
      pixels = picture_of(
        blank if sketch is None else sketch, classifier.image_shape[0], tone == _LIGHT, ink.share
      )
      return asked(pixels, f"drawing {len(tried) + 1}", tried)
    except UserError as error:
      return nothing(page.problem(error), tried)

  def judged(truth: str | None, tried: tuple[Tried, ...], current: int | None):
    if current is None or current >= len(tried):  # the session has begun anew
      return tried, ""
    tried = with_truth(tried, current, truth)
    return tried, page.verdict(tried[current].right, truth)

  photo.change(given, [photo, tried], shown, show_progress="hidden")
  if ink:
    predict.click(drawn, [sketch, tone, tried], shown, show_progress="hidden")
  truth.input(judged, [truth, tried, current], [tried, verdict], show_progress="hidden")
  tried.change(lambda tried: page.tally(*score(tried)), tried, running, show_progress="hidden")


def _drawing(ink: Ink) -> tuple[gr.Sketchpad, gr.Radio, gr.Button]:
  sketch = widgets.sketch(_SIDE, _BRUSH)
  gr.Markdown(f"Choose the brush at the left, draw, then press Predict. {ink.why}")
  tone = gr.Radio([_LIGHT, _DARK], value=_LIGHT if ink.light else _DARK, label="The network gets it")
  return sketch, tone, gr.Button("Predict", variant="primary")
