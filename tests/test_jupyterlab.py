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
from conftest import BROWSER, CHROMIUM, FLAGS, HANG, wait_for

ROOT = Path(__file__).parent.parent
NOTEBOOK = "01_explore_label_imbalance.ipynb"

pytestmark = BROWSER


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the notebooks, on the loopback address; its address and a function that asks its API."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, folder)
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
        yield f"{address}/lab/tree/{NOTEBOOK}?token={token}&reset", ask, folder / NOTEBOOK
    finally:
        process.terminate()
        process.wait(timeout=HANG)


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def figures(notebook):
    """How many pictures there are, photos among them, which are no PNG."""
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs(notebook))


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
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(address)
        page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=1000 * HANG)
        # earlier, Run All would ask for a kernel
        wait_for(lambda: any(k["connections"] and k["execution_state"] == "idle" for k in ask("/api/kernels")))
        page.click("text=Run >> nth=0")
        page.click("text=Run All Cells >> nth=0")
        last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
        answer = last.source.split('print(f"')[1].split("{")[0]
        page.wait_for_selector(f".jp-OutputArea-output:has-text('{answer}')", timeout=1000 * HANG)
        page.keyboard.press("Control+s")
        wait_for(lambda: nbformat.read(path, as_version=4).cells[-1].get("outputs"))
        browser.close()
    done = nbformat.read(path, as_version=4)
    assert not [output for output in outputs(done) if output.output_type == "error"]
    assert figures(done) == committed > 0
