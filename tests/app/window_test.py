"""What page a model gets, and who reaches it."""

import socket
import types

import gradio as gr
import pytest

from dlcourse.app import widgets
from dlcourse.app.asking import Upload
from dlcourse.app.window import open_subject, page_of, serving
from dlcourse.errors import UserError
from dlcourse.exported import export
from dlcourse.trained import open_trained


def tabs(blocks):
  return [block.label for block in blocks.blocks.values() if isinstance(block, gr.Tab)]


def test_a_classifier_is_asked_and_can_be_drawn_for(lenet, tmp_path):
  file = export(open_trained(lenet, devices=1), "safetensors", tmp_path / "m.safetensors")
  of_workdir, of_file = open_subject(lenet), open_subject(file)
  assert of_workdir.ink.light
  assert "edges of the training images" in of_workdir.ink.why
  assert "not at hand" in of_file.ink.why
  expected = ["One image", "Picture", "Drawing", "Many images", "Tried so far", "Model"]
  assert tabs(page_of(of_workdir)) == tabs(page_of(of_file)) == expected


@pytest.mark.parametrize("kind", ["vae", "gan"])
def test_what_makes_pictures_has_samples_and_latents(kind, request):
  subject = open_subject(request.getfixturevalue(kind))
  assert subject.classifier is None
  assert tabs(page_of(subject)) == ["Samples", "Latents", "Model"]


def test_only_this_machine_is_served_and_no_other_is_asked(lenet, monkeypatch):
  asked = []
  real = socket.socket.connect

  def connect(self, address):
    asked.append(address)
    return real(self, address)

  monkeypatch.setattr(socket.socket, "connect", connect)
  blocks = page_of(open_subject(lenet))
  with serving(blocks) as address:
    assert address == f"http://127.0.0.1:{blocks.server_port}"
    assert not blocks.analytics_enabled
    assert blocks.share_url is None
    taken = rf"port {blocks.server_port} is in use; name another with --port="
    with pytest.raises(UserError, match=taken), serving(page_of(open_subject(lenet)), blocks.server_port):
      pass
  assert {host for host, *_ in (a for a in asked if isinstance(a, tuple))} <= {"127.0.0.1", "localhost", "::1"}


def test_what_a_person_gives_is_not_decoded_on_its_way(tmp_path):
  sent = types.SimpleNamespace(path=str(tmp_path / "gone.png"), orig_name="cat.png")
  with gr.Blocks(analytics_enabled=False):
    photo, folder = widgets.photo(100), widgets.files(folder=True)
  assert photo.preprocess(sent) == Upload(sent.path, "cat.png")
  assert folder.preprocess(types.SimpleNamespace(root=[sent])) == [Upload(sent.path, "cat.png")]
  assert photo.preprocess(None) is None
  assert folder.preprocess(None) == []
