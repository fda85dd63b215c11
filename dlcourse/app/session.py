"""What one person has tried since the page was opened: each browser tab has its own."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import gradio as gr

from dlcourse.app import page
from dlcourse.app.tried import COLUMNS, Tried, as_csv, confusion, rows, score
from dlcourse.report.figures import confusion_figure

SAVED = "predictions.csv"


def csv_file(tried: Iterable[Tried]) -> str:
  """The path of a new file to be downloaded, in Gradio's folder, which ends with the app."""
  folder = Path(tempfile.mkdtemp(dir=gr.utils.get_upload_folder()))
  (folder / SAVED).write_text(as_csv(tried), encoding="utf-8", newline="")
  return str(folder / SAVED)


def result_table() -> gr.Dataframe:
  """An empty table of what was tried."""
  widths = ["220px", "130px", "120px", "130px", "90px", "320px"]  # else a name is broken into its letters
  return gr.Dataframe(headers=list(COLUMNS), interactive=False, wrap=True, label="Images", column_widths=widths)


def build(tried: gr.State, classes: tuple[str, ...]) -> None:
  """The tab with accuracy, confusion matrix and list of all that was tried, kept up to date.

  Args:
    tried: a tuple of `Tried`.
    classes: of the model.
  """
  accuracy = gr.HTML(page.tally(0, 0))
  matrix = gr.Plot(label="Confusion matrix of what was tried", visible=False)
  table = result_table()
  with gr.Row():
    download = gr.DownloadButton("Download as CSV", interactive=False)
    again = gr.Button("Begin anew")

  def refreshed(tried):
    right, known = score(tried)
    figure = confusion_figure(*confusion(tried, classes)) if known else None
    file = csv_file(tried) if tried else None
    return (
      page.tally(right, known),
      gr.Plot(figure, visible=bool(known)),
      rows(tried),
      gr.DownloadButton(value=file, interactive=bool(tried)),
    )

  tried.change(refreshed, tried, [accuracy, matrix, table, download], show_progress="hidden")
  again.click(tuple, None, tried)
