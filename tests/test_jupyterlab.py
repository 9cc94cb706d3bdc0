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
from conftest import BROWSER, CHROMIUM, DATA, FLAGS, HANG, wait_for

from mlkit.data.answers import AnswerFile, votes
from mlkit.inference.predictor import Predictor

ROOT = Path(__file__).parent.parent

pytestmark = BROWSER


@pytest.fixture
def lab(tmp_path, request):
    """JupyterLab on a copy of a notebook, on the loopback address; its address, a function that asks its API, the copy."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / request.param, folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--notebook-dir={folder}", "--allow-root"]
    environment = os.environ | {"HOME": str(tmp_path), "MLKIT_PROGRESS": "on"}
    with open(tmp_path / "lab.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def ask(path):
        request = urllib.request.Request(f"{address}{path}", headers={"Authorization": f"token {token}"})
        with urllib.request.urlopen(request, timeout=HANG) as answer:
            return json.load(answer)

    try:
        wait_for(lambda: ask("/api/status"))
        yield f"{address}/lab/tree/{request.param}?token={token}&reset", ask, folder / request.param
    finally:
        process.terminate()
        process.wait(timeout=HANG)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def figures(notebook):
    """How many pictures there are, photos among them, which are no PNG."""
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs(notebook))


def run_all(playwright, address, ask):
    """The page of a notebook in which all cells were told to run."""
    page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page(
        viewport={"width": 1400, "height": 1000}
    )
    page.goto(address)
    page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=1000 * HANG)
    # earlier, Run All would ask for a kernel
    wait_for(lambda: any(k["connections"] and k["execution_state"] == "idle" for k in ask("/api/kernels")))
    page.click("text=Run >> nth=0")
    page.click("text=Run All Cells >> nth=0")
    return page


@pytest.mark.parametrize("lab", ["01_explore_label_imbalance.ipynb"], indirect=True)
def test_run_all_finishes_without_error_and_shows_the_figures(lab):
    from playwright.sync_api import sync_playwright

    address, ask, path = lab
    notebook = nbformat.read(path, as_version=4)
    committed = figures(notebook)
    for cell in notebook.cells:  # what appears below must have been made here
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    with sync_playwright() as playwright:
        page = run_all(playwright, address, ask)
        last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
        answer = last.source.split('print(f"')[1].split("{")[0]
        page.wait_for_selector(f".jp-OutputArea-output:has-text('{answer}')", timeout=1000 * HANG)
        page.keyboard.press("Control+s")
        wait_for(lambda: nbformat.read(path, as_version=4).cells[-1].get("outputs"))
        page.context.browser.close()
    done = nbformat.read(path, as_version=4)
    assert not [output for output in outputs(done) if output.output_type == "error"]
    assert figures(done) == committed > 0


@pytest.mark.parametrize("lab", ["04_single_image_inference.ipynb"], indirect=True)
def test_a_picture_that_is_chosen_is_answered_at_once(finished, lab, tmp_path):
    from playwright.sync_api import sync_playwright

    address, ask, _ = lab
    image = sorted(Path(DATA["images"]).iterdir())[7]
    expected = Predictor.load(finished.path).predict(image)
    (tmp_path / "no picture.png").write_text("hello")
    with sync_playwright() as playwright:
        page = run_all(playwright, address, ask)
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
        page.context.browser.close()


def press(page, keys):
    """Keys in the panel of a review, each once the picture of its question is shown."""
    for key in keys:
        place = int(page.locator(".mlkit-review").get_attribute("data-shown"))
        page.locator(".mlkit-review").press(key)
        wanted = place + 1 if key in "ynsu" else place - 1 if key == "z" else place
        page.wait_for_selector(f".mlkit-review[data-shown='{wanted}']", timeout=1000 * HANG)


@pytest.mark.parametrize("lab", ["11_review_labels.ipynb"], indirect=True)
def test_answers_by_keys_survive_a_restart_of_the_kernel(finished, lab):
    from playwright.sync_api import sync_playwright

    address, ask, _ = lab
    answers = AnswerFile(finished.path.parent / "review" / "labels" / "answers.csv")
    with sync_playwright() as playwright:
        page = run_all(playwright, address, ask)
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
        page.context.browser.close()
    table = votes(answers.read())
    assert table.closed.sum() == 18  # all of both kernels, no cell asked twice
    kept = before[before.closed.astype(bool)]
    assert table.loc[kept.index].equals(kept)
    assert answers.read().seconds.notna().sum() >= 19
