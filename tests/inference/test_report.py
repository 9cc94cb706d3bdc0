import re

import nbformat
import pytest
from conftest import BROWSER, CHROMIUM, FLAGS

from mlkit.cli import main
from mlkit.errors import RunError
from mlkit.inference.report import write_report
from mlkit.notebooks import CHAIN
from mlkit.runs import Run

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
HOSTILE = "<script>document.title='run'</script>"


@pytest.fixture
def executed():
    """A run with two notebooks as they are when they were executed, in which names are hostile."""
    run = Run.create("small", {}, "data")
    for name, question in ((CHAIN[0], "1. What is in it?"), (CHAIN[4], "5. How far?")):
        text = f"# {question}\n\nSee [05]({CHAIN[4]}.ipynb), [06](06_missing_labels.ipynb) and [a paper](https://arxiv.org/abs/1)."
        table = {"text/html": "<table><tr><td>&lt;b&gt;</td></tr></table>", "text/plain": "x"}
        outputs = [
            nbformat.v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
            nbformat.v4.new_output("display_data", table),
        ]
        answer = nbformat.v4.new_output("stream", name="stdout", text=f"the answer of {name}: {HOSTILE}\n")
        cells = [
            nbformat.v4.new_markdown_cell(text),
            nbformat.v4.new_code_cell("x = 1", outputs=outputs, execution_count=1),
            nbformat.v4.new_markdown_cell("## Answer"),
            nbformat.v4.new_code_cell(f"print({HOSTILE!r})", outputs=[answer], execution_count=2),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), run / f"{name}.ipynb")
    return run


def test_one_page_answers_first_with_nothing_from_elsewhere(executed, capsys):
    assert main(["report", "small"]) == 0
    assert "outputs/small/report.html" in capsys.readouterr().out
    page = (executed / "report.html").read_text(encoding="utf-8")
    places = [
        page.index(part) for part in (f"the answer of {CHAIN[0]}", f"the answer of {CHAIN[4]}", f'<section id="{CHAIN[0]}">')
    ]
    assert places == sorted(places)
    assert page.count(f"data:image/png;base64,{PIXEL}") == 2
    assert page.count("<details><summary>code</summary>") == 4
    assert not re.findall(r'(?:src|href)="(?!data:image|#|https://arxiv)', page)
    assert f'<a href="#{CHAIN[4]}">05</a>, 06 and' in page, "which has no part of this page"
    assert "<script" not in page
    assert "report.html" in executed.record()


def test_a_run_without_notebooks_says_how_to_execute_them(outputs):
    run = Run.create("a", {}, "data")
    with pytest.raises(RunError, match=r"no notebook was executed in .*a; `mlkit run --name a` does so"):
        write_report(run)
    (run / f"{CHAIN[1]}.ipynb").write_text("{")
    with pytest.raises(RunError, match=r"02_train_resnet18.ipynb is damaged \(NotJSONError\); make it again: .* --only 02"):
        write_report(run)


@BROWSER
def test_opens_offline_and_runs_nothing(executed):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page, asked = browser.new_context(offline=True).new_page(), []
        page.on("console", lambda message: asked.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(write_report(executed).as_uri())
        assert page.title() == "small"
        assert page.locator("img").evaluate_all("images => images.every(image => image.naturalWidth == 1)")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
