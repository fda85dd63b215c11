"""The app as a person uses it: in Debian's chromium, without a screen."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from dlcourse.classifier import answers, open_classifier
from dlcourse.data.image_files import MAX_BYTES

CHROMIUM = shutil.which("chromium")
PATIENCE = 120_000  # milliseconds: the first answer is compiled, perhaps on a busy machine

pytestmark = [
  pytest.mark.browser,
  pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; on Debian: apt install chromium"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """all/CLASS/NUMBER.png, noise, three of each of two classes, and all/CLASS/broken.jpg, a text."""
  folder, rng = tmp_path_factory.mktemp("images") / "all", np.random.default_rng(0)
  for label in ("3", "5"):
    (folder / label).mkdir(parents=True)
    for number in range(3):
      noise = rng.integers(0, 256, (28, 28)).astype(np.uint8)
      Image.fromarray(noise).save(folder / label / f"{number}.png")
  (folder / "5" / "broken.jpg").write_text("no image")
  return folder


@pytest.fixture(scope="module")
def server(lenet, tmp_path_factory):
  """The command, and its address."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  temporary = tmp_path_factory.mktemp("temporary")
  hears = ["env", "--default-signal=INT"]  # what was started in the background of a shell ignores Ctrl-C
  command = [*hears, sys.executable, "-m", "dlcourse", "app", f"--workdir={lenet}", f"--port={port}"]
  environment = {**os.environ, "TMPDIR": str(temporary)}
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
  ) as app:
    line = app.stdout.readline()
    assert line.startswith(f"http://127.0.0.1:{port} "), line + app.communicate(timeout=60)[0]
    yield line.split()[0]
    app.send_signal(signal.SIGINT)
    said = app.communicate(timeout=60)[0]
  assert (app.returncode, said) == (0, "")
  assert not list(temporary.glob("dlcourse-app-*"))  # nothing of what was uploaded stays


@pytest.fixture(scope="module")
def browser():
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser, server):
  """The page, newly opened: nothing has been tried. It asks no machine but this one."""
  page = browser.new_page(viewport={"width": 1280, "height": 900})
  page.set_default_timeout(PATIENCE)
  hosts = set()
  page.on("request", lambda request: hosts.add(urllib.parse.urlsplit(request.url).hostname))
  page.goto(server)
  page.get_by_text("Load an image, and the model says").wait_for()
  yield page
  page.close()
  assert hosts - {None, ""} == {"127.0.0.1"}  # without a host: pictures within the page


def upload(page, file):
  page.locator("input[type=file]:not([webkitdirectory])").first.set_input_files(file)


def saved(page):
  with page.expect_download() as download:
    page.locator("button:visible", has_text="Download as CSV").click()
  return list(csv.DictReader(download.value.path().read_text("utf-8").splitlines()))


def test_an_image_is_predicted_as_by_predict_and_judged(page, lenet, images):
  file = images / "3" / "0.png"
  upload(page, file)
  page.locator(".answer").wait_for()
  bars = page.locator(".bar").evaluate_all("bars => bars.map(bar => bar.title)")
  shown = {name: float(share) for name, share in (bar.split(": ") for bar in bars)}
  (said,) = answers(open_classifier(lenet), [str(file)], top=10)
  assert shown == pytest.approx(dict(said.likeliest), abs=1e-6)
  assert page.locator("img:visible").count() == 3  # as given, as the network sees it, and Grad-CAM over it
  right, wrong = said.likeliest[0][0], said.likeliest[1][0]
  for truth, verdict, tally in ((wrong, f"wrong: it is {wrong}", "0 of 1"), (right, "right", "1 of 1")):
    page.get_by_label("Correct class").click()
    page.get_by_role("option", name=truth, exact=True).click()
    page.get_by_text(verdict, exact=True).wait_for()
    page.get_by_text(f"{tally} right: accuracy").locator("visible=true").first.wait_for()
  page.get_by_role("tab", name="Tried so far").click()
  page.locator("img:visible").wait_for()  # the confusion matrix
  assert [(row["file"], row["correct class"]) for row in saved(page)] == [("0.png", right)]


def test_what_is_no_image_gets_one_message_and_the_app_lives_on(page, images, tmp_path):
  upload(page, images / "5" / "broken.jpg")
  page.locator(".problem").wait_for()
  assert page.locator(".problem").inner_text().startswith("broken.jpg: cannot be decoded")
  page.get_by_label("Remove Image").click()
  page.locator(".problem").wait_for(state="detached")
  with (tmp_path / "huge.png").open("wb") as huge:
    huge.truncate(MAX_BYTES + 1)
  upload(page, tmp_path / "huge.png")
  page.get_by_text("maximum allowed size").wait_for()
  upload(page, images / "5" / "1.png")
  page.locator(".answer").wait_for()


def test_a_folder_is_tried_at_once_and_its_sub_folders_are_the_classes(page, lenet, images):
  page.get_by_role("tab", name="Many images").click()
  page.locator("input[webkitdirectory]").set_input_files(images)
  page.get_by_text("7 files, 1 of which cannot be used").wait_for()
  page.get_by_text("of 6 right: accuracy").locator("visible=true").first.wait_for()
  rows = {row["file"]: row for row in saved(page)}
  files = {str(file.relative_to(images.parent)): file for file in images.glob("*/*")}
  assert set(rows) == set(files)
  classifier = open_classifier(lenet)
  for name, file in files.items():
    if file.suffix == ".png":
      (said,) = answers(classifier, [str(file)], top=1)
      assert float(rows[name]["probability"]) == pytest.approx(said.likeliest[0][1], abs=1e-6)
      assert (rows[name]["predicted"], rows[name]["correct class"]) == (said.likeliest[0][0], file.parent.name)
    else:
      assert rows[name]["problem"].startswith("cannot be decoded")
      assert rows[name]["predicted"] == ""


def test_a_drawing_is_predicted(page):
  page.get_by_role("tab", name="Drawing").click()
  page.get_by_role("button", name="Predict").click()
  page.get_by_text("nothing is drawn yet").wait_for()
  page.get_by_label("Brush").first.click()
  box = page.locator("canvas").first.bounding_box()
  x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
  page.mouse.move(x - 50, y - 70)
  page.mouse.down()
  page.mouse.move(x + 50, y - 70, steps=10)
  page.mouse.move(x - 10, y + 80, steps=10)
  page.mouse.up()
  page.get_by_role("button", name="Predict").click()
  page.locator(".answer").wait_for()


def test_each_page_has_its_own_tally_and_fits_a_telephone(page, browser, server, images):
  upload(page, images / "3" / "0.png")
  page.locator(".answer").wait_for()
  other = browser.new_page(viewport={"width": 400, "height": 800})
  other.set_default_timeout(PATIENCE)
  other.goto(server)
  upload(other, images / "5" / "1.png")
  other.locator(".answer").wait_for()
  assert other.evaluate("document.documentElement.scrollWidth") <= 400
  other.locator(".overflow-menu > button:visible").first.click()  # of the tabs that find no room
  other.get_by_text("Tried so far").last.click()
  assert [row["file"] for row in saved(other)] == ["1.png"]
  other.close()
