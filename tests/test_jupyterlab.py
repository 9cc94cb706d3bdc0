"""JupyterLab itself: a notebook opened in a real browser, Run All, to the end."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import BROWSER, CHROMIUM, DATA, FLAGS, HANG, small_run, wait_for

from mlkit.data.answers import AnswerFile, votes
from mlkit.inference.predictor import Predictor

ROOT = Path(__file__).parent.parent

pytestmark = BROWSER


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on copies of the notebooks, on the loopback address, with a finished run.

    Its folder, the address of a notebook in it, and a function that asks its API.
    """
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("figures", "parameters"))
    shutil.copytree(small_run(), folder / "outputs" / "small")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--notebook-dir={folder / 'notebooks'}", "--allow-root"]
    environment = os.environ | {"HOME": str(folder), "MLKIT_PROGRESS": "on", "MLKIT_OUTPUTS": str(folder / "outputs")}
    with open(folder / "lab.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder / "notebooks", env=environment, stdout=log, stderr=log)

    def ask(path):
        request = urllib.request.Request(f"{address}{path}", headers={"Authorization": f"token {token}"})
        with urllib.request.urlopen(request, timeout=HANG) as answer:
            return json.load(answer)

    try:
        wait_for(lambda: ask("/api/status"))
        yield folder, f"{address}/lab/tree/{{}}?token={token}&reset", ask
    finally:
        process.terminate()
        process.wait(timeout=HANG)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def figures(notebook):
    """How many pictures there are, photos among them, which are no PNG."""
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs(notebook))


@pytest.fixture
def run_all(lab, browser):
    """Opens a notebook and has all of its cells run; the page."""
    _, address, ask = lab

    def run_all(notebook):
        before = {kernel["id"] for kernel in ask("/api/kernels")}
        page.goto(address.format(notebook))
        page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=1000 * HANG)
        wait_for(  # earlier, Run All would ask for a kernel
            lambda: any(
                kernel["connections"] and kernel["execution_state"] == "idle"
                for kernel in ask("/api/kernels")
                if kernel["id"] not in before
            )
        )
        page.click("text=Run >> nth=0")
        page.click("text=Run All Cells >> nth=0")
        return page

    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield run_all
    page.close()


def test_run_all_shows_the_figures_and_a_picture_that_is_chosen_is_answered_at_once(lab, run_all, tmp_path):
    folder, *_ = lab
    path, run = folder / "notebooks" / "04_single_image_inference.ipynb", folder / "outputs" / "small"
    notebook = nbformat.read(path, as_version=4)
    committed = figures(notebook)
    for cell in notebook.cells:  # what appears below must have been made here
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    image = sorted(Path(DATA["images"]).iterdir())[7]
    expected = Predictor.load(run).predict(image)
    (tmp_path / "no picture.png").write_text("hello")
    page = run_all(path.name)
    button = page.locator("button:has-text('Choose a picture')")
    button.wait_for(timeout=1000 * HANG)
    for file, said in (
        (image, f"{expected.probability[0]:.3f}"),
        (tmp_path / "no picture.png", "no picture.png: not an image"),
    ):
        with page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files(file)
        page.wait_for_selector(f".jupyter-widgets:has-text('{said}')", timeout=1000 * HANG)
    page.keyboard.press("Control+s")
    wait_for(lambda: nbformat.read(path, as_version=4).cells[-1].get("outputs"))
    done = nbformat.read(path, as_version=4)
    assert not [output for output in outputs(done) if output.output_type == "error"]
    assert figures(done) == committed > 0


def press(page, keys):
    """Keys in the panel of a review, each once the picture of its question is shown."""
    for key in keys:
        place = int(page.locator(".mlkit-review").get_attribute("data-shown"))
        page.locator(".mlkit-review").press(key)
        wanted = place + 1 if key in "ynsu" else place - 1 if key == "z" else place
        page.wait_for_selector(f".mlkit-review[data-shown='{wanted}']", timeout=1000 * HANG)


def test_answers_by_keys_survive_a_restart_of_the_kernel(lab, run_all):
    answers = AnswerFile(lab[0] / "outputs" / "review" / "labels" / "answers.csv")
    page = run_all("11_review_labels.ipynb")
    page.wait_for_selector(".mlkit-review[data-shown='0']", timeout=1000 * HANG)
    page.locator(".mlkit-review").click()
    press(page, "yynsuzymnnny")  # u is taken back
    wait_for(lambda: len(answers.read()) == 11)
    before = votes(answers.read())
    assert before.closed.sum() == 8
    page.click("text=Kernel >> nth=0")
    page.click("text=Restart Kernel and Run All Cells")
    page.click(".jp-Dialog .jp-mod-accept")
    page.wait_for_selector(".mlkit-review[data-shown='9']", state="detached", timeout=1000 * HANG)
    page.wait_for_selector(".mlkit-review[data-shown='0']", timeout=1000 * HANG)
    press(page, "yn" * 5)
    wait_for(lambda: len(answers.read()) == 21)
    table = votes(answers.read())
    assert table.closed.sum() == 18  # all of both kernels, no cell asked twice
    kept = before[before.closed.astype(bool)]
    assert table.loc[kept.index].equals(kept)
    assert answers.read().seconds.notna().sum() >= 19
