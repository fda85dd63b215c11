"""The tab for many images at once."""

import gradio as gr

from dlcourse.app import page, widgets
from dlcourse.app.asking import Upload, tried_of
from dlcourse.app.session import csv_file, result_table
from dlcourse.app.tried import Tried, rows, score
from dlcourse.classifier import Classifier
from dlcourse.errors import UserError


def build(classifier: Classifier, tried: gr.State) -> None:
  """The tab.

  Args:
    classifier: who is asked.
    tried: a tuple of `Tried`, to which the images are added.
  """
  gr.Markdown(
    "Of a folder with one sub-folder per class, the correct class of an image is the name of the folder "
    "that it is in."
  )
  with gr.Row():
    folder, files = widgets.files(folder=True), widgets.files(folder=False)
  summary = gr.HTML()
  table = result_table()
  download = gr.DownloadButton("Download as CSV", interactive=False)

  def asked(uploads: list[Upload], tried: tuple[Tried, ...], progress=gr.Progress()):  # noqa: B008 - Gradio's way
    try:
      found = tuple(tried_of(classifier, upload) for upload in progress.tqdm(uploads, unit="images"))
    except UserError as error:
      return page.problem(error), [], gr.DownloadButton(value=None, interactive=False), tried, None
    saved = gr.DownloadButton(value=csv_file(found), interactive=True)
    return summary_of(found), rows(found), saved, (*tried, *found), None

  for given in (folder, files):
    given.upload(asked, [given, tried], [summary, table, download, tried, given], show_progress_on=summary)


def summary_of(found: tuple[Tried, ...]) -> str:
  """How many images could be read and how many answers are right."""
  broken = sum(one.problem is not None for one in found)
  text = f"{len(found)} files" + (f", {broken} of which cannot be used: see the table" if broken else "")
  right, known = score(found)
  return page.note(text) + (page.tally(right, known) if known else "")
