"""The page and its server, which only this machine reaches and which reaches no other.

Imports Gradio: the rest of the package does without (extra `app`).
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from dlcourse.app import about, latents, many, one, page, samples, session
from dlcourse.app.card import card_of, card_of_file, layers_of
from dlcourse.app.ink import UNKNOWN, Ink, ink_of
from dlcourse.app.walk import can_walk
from dlcourse.app.widgets import FOLDERS_STAY
from dlcourse.classifier import Classifier, of_exported, of_trained
from dlcourse.data.image_files import MAX_BYTES
from dlcourse.errors import UserError
from dlcourse.exported import open_exported
from dlcourse.models.trace import Layer
from dlcourse.trained import Trained, Which, open_trained

_HOST = "127.0.0.1"
_SYSTEM = ["system-ui", "sans-serif"]  # fonts: others would be fetched
_MONO = ["ui-monospace", "monospace"]


class Subject(NamedTuple):
  """What the page is about.

  Attributes:
    title: of the page.
    card: see `card_of`.
    layers: of the networks.
    classifier: where it says what is on an image.
    ink: how drawings become images; None where the classifier does not take grey ones.
    trained: where it makes something.
  """

  title: str
  card: Mapping[str, str]
  layers: list[Layer]
  classifier: Classifier | None = None
  ink: Ink | None = None
  trained: Trained | None = None


def open_subject(path: Path, which: Which = "best", recipe: str | None = None) -> Subject:
  """Opens a workdir or an exported file.

  Args:
    path: of either.
    which: checkpoint of a workdir.
    recipe: see `open_exported` and `workdir.rebuild`.

  Raises:
    UserError: it cannot be opened, or neither generates nor classifies images.
  """
  if not path.is_dir():
    exported = open_exported(path, recipe)
    layers, asked = layers_of(exported), of_exported(path, exported)
    return Subject(
      path.name, card_of_file(path, exported, layers), layers, asked, UNKNOWN if _grey(asked) else None
    )
  trained = open_trained(path, which, devices=1, recipe=recipe)
  layers = layers_of(trained)
  subject = Subject(trained.record["experiment"], card_of(trained, layers), layers)
  if trained.program.generate is not None or can_walk(trained):
    return subject._replace(trained=trained)
  asked = of_trained(trained)
  ink = ink_of(trained.data.batch(trained.record["seed"], 0)["image"]) if _grey(asked) else None
  return subject._replace(classifier=asked, ink=ink)


def _grey(classifier: Classifier) -> bool:
  return classifier.image_shape[-1] == 1


def page_of(subject: Subject) -> gr.Blocks:
  """The page: tabs for what the model can do, and its card."""
  with gr.Blocks(title=f"dlcourse: {subject.title}", analytics_enabled=False) as blocks:
    gr.HTML(f"<h1>{page.escaped(subject.title)}</h1>")
    tried = gr.State(())  # within Tabs it would count as a tab
    with gr.Tabs():
      if subject.classifier:
        with gr.Tab("One image"):
          one.build(subject.classifier, subject.ink, tried)
        with gr.Tab("Many images"):
          many.build(subject.classifier, tried)
        with gr.Tab("Tried so far"):
          session.build(tried, subject.classifier.classes)
      if subject.trained:
        _generative(subject.trained)
      with gr.Tab("Model"):
        about.build(subject.card, subject.layers)
  return blocks


def _generative(trained: Trained) -> None:
  if trained.program.generate is not None:
    if trained.data.spec.vocabulary:
      with gr.Tab("Text"):
        samples.build_text(trained)
    else:
      with gr.Tab("Samples"):
        samples.build_pictures(trained)
  if can_walk(trained):
    with gr.Tab("Latents"):
      latents.build(trained)


@contextlib.contextmanager
def serving(blocks: gr.Blocks, port: int | None = None) -> Iterator[str]:
  """Serves a page on this machine for as long as the context lasts.

  Args:
    blocks: the page.
    port: None: the first free one from Gradio's usual on.

  Yields:
    The address.

  Raises:
    UserError: the port is taken.
  """
  theme = gr.themes.Default(font=_SYSTEM, font_mono=_MONO)
  try:
    _, address, _ = blocks.launch(
      server_name=_HOST,
      server_port=port,
      share=False,
      prevent_thread_lock=True,
      quiet=True,
      theme=theme,
      css=page.CSS,
      head=FOLDERS_STAY,
      max_file_size=MAX_BYTES,
      footer_links=[],
      run_history=False,
      ssr_mode=False,
      pwa=False,
      mcp_server=False,
      enable_monitoring=False,
      num_workers=0,
    )
  except OSError as error:
    raise UserError(f"port {port or 'of the app'} is in use; name another with --port=PORT") from error
  try:
    yield address.rstrip("/")
  finally:
    blocks.close(verbose=False)


def run(path: Path, which: Which, recipe: str | None, port: int | None) -> None:
  """Serves a model's page until Ctrl-C.

  Args:
    path: of a workdir or an exported file.
    which: checkpoint of a workdir.
    recipe: see `open_subject`.
    port: see `serving`.
  """
  with serving(page_of(open_subject(path, which, recipe)), port) as address:
    print(f"{address} (only on this machine; Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
      threading.Event().wait()
