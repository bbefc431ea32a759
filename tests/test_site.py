"""The site builds strictly, from the folder alone, and shows what GitHub shows."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chromium import CHROMIUM, open_page


pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[docs]'")
pytest.importorskip("material", reason="mkdocs-material is not installed: pip install '.[docs]'")
pytest.importorskip("latex2mathml", reason="latex2mathml is not installed: pip install '.[docs]'")

import flowcharts
import mathematics
import repository_links
import table_names


ROOT = Path(__file__).parents[1]

# Whether an expression becomes true within ten seconds
WAITING = """new Promise(done => {
    setTimeout(() => done(false), 10000)
    const look = () => %s ? done(true) : setTimeout(look, 20)
    look()
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_site_builds_strictly(site):
    names = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    assert {"index.html", "metrics.html", "options/dapo.html", "reference/dapo.html"} <= names
    # Neither hooks nor generators are pages
    assert not list(site.rglob("*.py"))


def test_no_page_asks_another_machine_for_anything(site):
    loaded = re.compile(r"<(?:script|img|iframe)[^>]+src=\"?(https?:|//)|<link[^>]+href=\"?(?:https?:|//)")
    imported = re.compile(r"url\([\"']?(?:https?:|//)|@import")
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text()), page
    for sheet in site.rglob("*.css"):
        assert not imported.search(sheet.read_text()), sheet


def test_parameters_of_the_reference_are_tables_with_links(site):
    text = (site / "reference" / "dapo.html").read_text()
    assert text.count("doc-section-item") > 40
    assert 'href="#trl_dapo.DAPOConfig"' in text
    # The dialect itself is not shown
    assert "*optional*" not in text
    assert "[<code>~" not in text


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_never_scrolls_sideways_and_its_scripts_run(site, width):
    with open_page() as page:
        for name in ("index", "metrics", "ablation", "options/dapo", "reference/dapo", "equations"):
            page.look(width)
            page.open(site / f"{name}.html")
            assert page.value("document.documentElement.scrollWidth <= innerWidth"), name
            assert page.complaints() == []
            assert all(address.startswith(("file:", "data:")) for address in page.requests())


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_dark_and_light_follow_the_reader(site):
    with open_page() as page:
        for dark, scheme in ((False, "default"), (True, "slate")):
            page.look(1280, dark=dark)
            page.open(site / "index.html")
            # The theme's script sets it some time after the page is loaded
            expression = f"document.body.dataset.mdColorScheme === '{scheme}'"
            assert page.value(WAITING % expression)


def test_formulas_become_mathml():
    html = '<p><span class="arithmatex">\\(a &lt; b\\)</span></p>'
    assert mathematics.on_page_content(html).startswith('<p><math xmlns="http://www.w3.org/1998/Math/MathML"')
    assert "&lt;" in mathematics.on_page_content(html)


def test_limits_stand_above_and_below_a_displayed_sum_and_beside_one_in_a_fraction():
    shown = mathematics.rendered(r"\left[ \sum_{i=1}^{G} \frac{1}{\sum_{j=1}^{G} x} \right]", is_display=True)
    assert (shown.count("<munderover"), shown.count("<msubsup")) == (1, 1)
    assert shown.startswith('<div class="formula">')


def test_a_function_stands_apart_from_its_argument():
    assert 'rspace="0.17em">log</mo>' in mathematics.rendered(r"\log x", False)


def test_lines_are_aligned():
    assert mathematics.rendered(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", True).count("<mtr>") == 2


def test_an_unknown_command_is_refused():
    with pytest.raises(ValueError, match="nosuchcommand"):
        mathematics.rendered(r"\nosuchcommand{x}", False)


def test_a_flowchart_becomes_a_table():
    chart = 'a["a: the top"] --> b & c\nb --> d[("trl, accelerate")]\n'
    assert flowcharts.table(chart).splitlines()[2:] == ["| `a` | the top | `b`, `c` |", "| `b` |  | `d` |"]
    with pytest.raises(ValueError, match="not of the form"):
        flowcharts.table("a -.-> b")


def test_names_in_tables_break_behind_underscores():
    html = "<td><code>a_b/c._d</code> of <code>x_y</code></td><p><code>p_q</code></p>"
    assert table_names.on_page_content(html) == html.replace("a_b/c", "a_<wbr>b/<wbr>c")


def test_links_out_of_the_docs_lead_to_pages_that_show_the_files(tmp_path):
    docs = tmp_path / "docs"
    for name in ("docs/x.md", "examples/a.py", "examples/README.md", "benchmarks/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("[b](../benchmarks/b.py)")
    text = "[a](../examples/a.py) [r](../examples/README.md#part) [x](x.md) [none](../none.py) [web](https://x.org/y)"
    found = repository_links.outside(text, docs / "x.md", docs)
    assert found == {tmp_path / "examples" / "a.py", tmp_path / "examples" / "README.md"}
    page = SimpleNamespace(file=SimpleNamespace(src_uri="x.md"))
    config = SimpleNamespace(docs_dir=str(docs))
    led = repository_links.on_page_markdown(text, page=page, config=config, files=None)
    assert led == (
        "[a](files/examples/a.py.md) [r](files/examples/README.md#part) [x](x.md) [none](../none.py) "
        "[web](https://x.org/y)"
    )
    assert "````python" in repository_links.page_of(tmp_path / "examples" / "a.py", tmp_path)
    assert repository_links.page_of(tmp_path / "examples", tmp_path) == "[b](../benchmarks/b.py)"
