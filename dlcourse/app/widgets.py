"""Gradio's components for what a person gives, none of which decodes it: only `read_image` opens such files.

Their `preprocess` is replaced on the object: Gradio writes a file beside the module of every subclass.
"""

from pathlib import Path

import gradio as gr
import numpy as np

from dlcourse.app.asking import Upload
from dlcourse.data.image_files import read_image

# Of a chosen folder, Gradio keeps the bare names of the files, and the folders within are their classes. The
# name of a file that is sent may hold slashes; for its path the server takes only what follows the last one.
FOLDERS_STAY = """<script>
document.addEventListener("change", (event) => {
  const input = event.target;
  if (!input.webkitdirectory || !input.files?.length) return;
  const named = new DataTransfer();
  for (const file of input.files) {
    named.items.add(new File([file], file.webkitRelativePath || file.name, { type: file.type }));
  }
  input.files = named.files;
}, true);
</script>"""


def photo(height: int) -> gr.Image:
  """An image of a file, the webcam or the clipboard, given as an `Upload`; None where there is none."""
  image = gr.Image(
    sources=["upload", "webcam", "clipboard"], label="Drop an image here", height=height, buttons=[]
  )
  image.preprocess = lambda sent: sent and _upload(sent)
  return image


def files(folder: bool) -> gr.File:
  """Files, or those of a folder, given as a list of `Upload`."""
  kind, label = ("directory", "A folder") if folder else ("multiple", "Files")
  chosen = gr.File(file_count=kind, label=label, height=150)
  chosen.preprocess = lambda sent: [_upload(file) for file in sent.root] if sent else []
  return chosen


def sketch(side: int, brush: int) -> gr.Sketchpad:
  """What is drawn by hand, given as uint8 [h, w, 3], dark on white; None where nothing is.

  Args:
    side: of the canvas, in pixels.
    brush: half of its width, in pixels.
  """
  pad = gr.Sketchpad(
    canvas_size=(side, side),
    fixed_canvas=True,
    brush=gr.Brush(default_size=brush, colors=["#000000"], color_mode="fixed"),
    layers=False,
    transforms=(),
    label="Draw here",
    buttons=[],
  )

  def decoded(sent) -> np.ndarray | None:
    if sent is not None and sent.id:  # the strokes have come in parts
      sent = pad.blob_storage.pop(sent.id, None)
    drawn = sent and sent.composite
    return drawn and read_image(drawn if isinstance(drawn, bytes) else drawn.path)

  pad.preprocess = decoded
  return pad


def picture(
  label: str | None, height: int | None = None, value: np.ndarray | None = None, visible: bool = True
) -> gr.Image:
  """A picture that is shown, without loss; on a narrow screen below its neighbour.

  Args:
    label: covers its upper left corner; None: nothing does.
    height: in pixels; None: as the picture has it.
    value: uint8 [h, w, 3].
    visible: whether it is there at first.
  """
  return gr.Image(
    value,
    label=label,
    show_label=label is not None,
    height=height,
    visible=visible,
    format="png",
    interactive=False,
    buttons=["download"],
    min_width=300,
  )


def _upload(file) -> Upload:
  return Upload(file.path, file.orig_name or Path(file.path).name)
