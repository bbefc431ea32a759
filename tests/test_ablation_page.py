"""The page: what it holds, and what a browser makes of it."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ablation_runs import made_runs, with_metrics
from chromium import CHROMIUM, open_page
from trl_dapo.ablation.designs import make_design
from trl_dapo.ablation.report import write_report
from trl_dapo.ablation.results import SampleCompletion


in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

HOSTILE = (
    "<script>document.title='pwned'</script>",
    "</script><img src=x onerror=\"document.title='pwned'\"></pre></details>",
    "</style><svg onload=document.title='pwned'><a href='javascript:1'>https://example.com/",
    "<!-- \x00 \x1b[31m \ud800 \u202e --> <base href=//example.com> &lt;b&gt; ${1} `",
)


def hostile_runs():
    runs = [run for run in with_metrics(made_runs(seeds=4, points=8), "entropy") if run.row.position < 3]
    samples = [SampleCompletion(text, text, right) for text in HOSTILE for right in (True, False)]
    return [
        replace(
            run,
            row=replace(run.row, name=f"{run.row.name} {HOSTILE[1]}"),
            regime=HOSTILE[2],
            completions=samples[2 * run.seed :],
            config={**run.config, HOSTILE[0]: HOSTILE[1]},
            environment={**run.environment, "gpu": HOSTILE[1]},
            manipulation={**run.manipulation, HOSTILE[3]: 1.0},
        )
        for run in runs
    ]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    notes = (HOSTILE[0], "left-out files are named")
    write_report(folder, hostile_runs(), [], ["samples"], title=HOSTILE[1], notes=notes, left_out=HOSTILE)
    return folder / "index.html"


@pytest.fixture(scope="module")
def page(page_file):
    with open_page() as browser:
        browser.look(1000)
        browser.open(page_file)
        yield browser


# ----------------------------------------------------------------------------------------------------------- the file


class Elements(HTMLParser):
    """Names and attributes of all elements."""

    def __init__(self, text):
        super().__init__()
        self.found, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]


def test_the_page_has_no_address_and_no_element_of_its_own_that_could_load(page_file):
    elements = Elements(page_file.read_text(encoding="utf-8")).found
    loading = {"img", "link", "iframe", "object", "embed", "base", "audio", "video", "source", "image", "form"}
    assert {tag for tag, _ in elements} & loading == set()
    for _, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "action", "data", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert [attributes for tag, attributes in elements if tag == "script"] == [{}]
    assert not re.search(r"url\((?!#)|@import", page_file.read_text(encoding="utf-8"))


def test_no_two_elements_have_one_id(page_file):
    ids = Elements(page_file.read_text(encoding="utf-8")).ids
    assert len(ids) == len(set(ids))
    text = page_file.read_text(encoding="utf-8")
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    assert {one or other for one, other in used} <= set(ids)


def test_figures_take_the_colour_of_the_page(page_file):
    text = page_file.read_text(encoding="utf-8")
    assert "#1f2328" not in text[text.index("<body>") :]
    assert "currentColor" in text
    # Colours are the page's, which knows light and dark
    colours = {found.lower() for found in re.findall(r"#[0-9a-fA-F]{6}", text[text.index("<body>") :])}
    assert colours == set()
    assert set(re.findall(r"var\((--c\d)\)", text)) <= set(re.findall(r"(--c\d):", text))
    assert "<text" in text  # text is text


# --------------------------------------------------------------------------------------------------------- the browser


@in_chromium
def test_completions_are_text(page):
    assert page.value("document.title") == HOSTILE[1]
    assert page.value("document.querySelectorAll('body img, body base, script').length") == 1
    shown = page.value("[...document.querySelectorAll('.sample pre')].map(one => one.textContent)")
    assert set(shown) >= {HOSTILE[0], HOSTILE[1], HOSTILE[2]}
    assert HOSTILE[3] not in shown
    assert any(r"\x00 \x1b[31m \ud800 \u202e --> <base href" in text for text in shown)


@in_chromium
def test_nothing_is_asked_of_anybody(page, page_file):
    assert page.requests() == [page_file.as_uri()]
    assert page.complaints() == []


@in_chromium
def test_the_policy_lets_no_other_script_run_and_nothing_load(page):
    page.events.clear()
    page.value(
        """
        const script = document.createElement('script'); script.textContent = "document.title = 'pwned'";
        document.body.append(script);
        const image = document.createElement('img'); image.src = 'https://example.com/x.png';
        document.body.append(image); 0
        """
    )
    page.value("new Promise(done => setTimeout(done, 300))")
    assert page.value("document.title") == HOSTILE[1]
    said = " ".join(page.complaints())
    assert "script-src" in said
    assert "https://example.com/x.png" in said
    page.value("document.querySelectorAll('body > img, body > script + script').forEach(one => one.remove())")


COLUMN = "[...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map(row => row.cells[{}].textContent)"
HEADING = "document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells[{}]"


@in_chromium
def test_a_click_sorts_by_numbers_up_then_down_then_as_it_was(page):
    column = page.value("[...document.querySelectorAll('thead')[0].rows[0].cells].map(c => c.textContent)").index(
        "accuracy % [over seeds]"
    )
    before = page.value(COLUMN.format(column))
    numbers = [float(one.split()[0]) for one in before]
    states, orders = [], []
    for _ in range(3):
        page.value(f"{HEADING.format(column)}.querySelector('button').click()")
        states.append(page.value(f"{HEADING.format(column)}.getAttribute('aria-sort')"))
        orders.append([float(one.split()[0]) for one in page.value(COLUMN.format(column))])
    assert states == ["ascending", "descending", "none"]
    assert orders == [sorted(numbers), sorted(numbers, reverse=True), numbers]


@in_chromium
def test_negative_numbers_sort_below_positive_ones_and_gaps_come_last(page):
    # The text has U+2212, which no number parser reads: the value is beside it
    page.value(f"{HEADING.format(2)}.querySelector('button').click()")
    found = page.value(COLUMN.format(2))
    assert found[-1] == "–"
    numbers = [float(one.split()[0].replace("−", "-")) for one in found[:-1]]
    assert numbers == sorted(numbers)
    page.value(f"{HEADING.format(2)}.querySelector('button').click()")
    assert page.value(COLUMN.format(2))[-1] == "–"
    page.value(f"{HEADING.format(2)}.querySelector('button').click()")


@in_chromium
def test_the_keyboard_sorts_too(page):
    page.value(f"{HEADING.format(0)}.querySelector('button').focus()")
    page.press("Enter", "\r")
    assert page.value(f"{HEADING.format(0)}.getAttribute('aria-sort')") == "ascending"
    page.press("Enter", "\r")
    page.press("Enter", "\r")
    assert page.value(f"{HEADING.format(0)}.getAttribute('aria-sort')") == "none"


@in_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_scrolling_sideways_and_the_dark_page_is_dark(page, page_file, dark):
    page.look(360, dark=dark)
    page.open(page_file)
    page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.value("document.documentElement.scrollWidth") == 360
    paper, ink = (
        sum(map(int, re.findall(r"\d+", page.value(f"getComputedStyle(document.body).{name}"))[:3])) / 3
        for name in ("backgroundColor", "color")
    )
    assert (paper < 60 < 180 < ink) if dark else (ink < 60 < 180 < paper)
    # Text of a figure has the colour of the page's text
    figure = "getComputedStyle(document.querySelector('figure svg text')).fill"
    assert page.value(figure) == page.value("getComputedStyle(document.body).color")


@in_chromium
def test_the_whole_ladder_opens_without_a_complaint(page, tmp_path):
    write_report(tmp_path, made_runs(seeds=2, points=0), [make_design("ladder")], ["samples"], title="Ladder")
    page.look(1000)
    page.open(tmp_path / "index.html")
    assert page.complaints() == []
    assert page.value("document.querySelectorAll('table.sortable button').length") > 20
    assert page.value("document.querySelectorAll('figure svg').length") == 2
