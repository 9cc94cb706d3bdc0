"""`report.html`: the executed notebooks of a run on one page that needs nothing else, its answers first."""

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlkit.errors import RunError
from mlkit.files import shown, write_text
from mlkit.notebooks import CHAIN, light_formats
from mlkit.runs import Run

# nbconvert's plain template, with code that is opened on request
_TEMPLATE = """{%- extends 'basic/index.html.j2' -%}
{% block input_group %}<details><summary>code</summary>{{ super() }}</details>{% endblock %}"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 56rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #222; }}
h1 {{ font-size: 1.5rem; margin-top: 3rem; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }} header h1 {{ margin-top: 0; }}
pre {{ white-space: pre-wrap; font: 0.85rem/1.45 ui-monospace, monospace; margin: 0.5rem 0; overflow-wrap: anywhere; }}
.answer pre {{ font: inherit; }}
details {{ margin: 0.4rem 0; color: #666; }} summary {{ cursor: pointer; font-size: 0.8rem; }}
details pre {{ background: #f6f6f6; padding: 0.6rem; }}
img {{ max-width: 100%; height: auto; }}
.output_html, .rendered_html {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.8rem; }}
td, th {{ padding: 0.15rem 0.5rem; text-align: right; white-space: nowrap; border: 1px solid #ddd; }}
tbody tr:nth-child(odd) {{ background: #f6f6f6; }}
@media print {{ details {{ display: none; }} body {{ margin: 0; max-width: none; }} img, tr {{ break-inside: avoid; }} }}
</style>
</head>
<body>
<header><h1>{title}</h1><p>{about}</p></header>
<main>
{answers}
{notebooks}
</main>
</body>
</html>
"""


def write_report(run: Run) -> Path:
    """Write report.html into a run's folder, of the notebooks that were executed there; returns its path.

    Raises:
        RunError: if none was, or one is damaged.
    """
    with light_formats():
        import nbformat
        from nbconvert import HTMLExporter

    found = {name: run / f"{name}.ipynb" for name in CHAIN if (run / f"{name}.ipynb").is_file()}
    if not found:
        raise RunError(f"no notebook was executed in {run}; `mlkit run --name {run.name}` does so")
    exporter: Any = HTMLExporter(raw_template=_TEMPLATE, exclude_anchor_links=True)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    answers, bodies = [], []
    for name, path in found.items():
        try:
            notebook = nbformat.read(path, as_version=4)
        except Exception as error:  # of JSON, of UTF-8, of another version
            mend = f"mlkit run --name {run.name} --only {name[:2]}"
            raise RunError(f"{shown(path)} is damaged ({type(error).__name__}); make it again: {mend}") from None
        answers.append(
            f'<section class="answer"><h2><a href="#{name}">{_question(notebook)}</a></h2>{_answer(notebook)}</section>'
        )
        body, _ = exporter.from_notebook_node(notebook)
        bodies.append(f'<section id="{name}">{_linked(body, found)}</section>')
    config = run.config()
    about = f"A run of mlkit {config['versions']['mlkit']}, begun {config['created'][:16].replace('T', ' ')} UTC."
    page = _PAGE.format(title=html.escape(run.name), about=about, answers="\n".join(answers), notebooks="\n".join(bodies))
    write_text(run.new("report.html"), page)
    return run / "report.html"


def _question(notebook: Any) -> str:
    """The first heading, as HTML."""
    return html.escape(notebook.cells[0].source.splitlines()[0].lstrip("# "))


def _answer(notebook: Any) -> str:
    """What the last cell printed, as HTML."""
    last = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    return f"<pre>{html.escape(''.join(output.get('text', '') for output in last.outputs))}</pre>"


def _linked(body: str, found: Mapping[str, Path]) -> str:
    """Links between notebooks lead to their part of the page; those to other files, which it has not, are plain text."""

    def link(match: "re.Match[str]") -> str:
        place, text = match["place"], match["text"]
        if place.startswith(("#", "http://", "https://")):
            return match[0]
        name = Path(place).stem
        return f'<a href="#{name}">{text}</a>' if name in found else text

    return re.sub(r'<a href="(?P<place>[^"]*)"[^>]*>(?P<text>.*?)</a>', link, body, flags=re.DOTALL)
