"""The report in a real headless browser: what a reader sees, on a screen and on a phone, by mouse and by keyboard."""

import pytest

import browser
from browser import Browser
from kdzero_gp.report.page import write_report
from synthetic import synthetic_run

PANELS = ("race", "fitness", "flow", "operations", "pairs", "time", "genealogy", "trees", "cost", "reproduction")
# WCAG 2.2 AA for text.
LEAST_CONTRAST = 4.5
# The text elements whose colour is too near to what lies behind them: [text, ratio, colour, background].
CONTRAST = """
(() => {
  const numbers = (colour) => { const found = colour.match(/[\\d.]+/g).map(Number);
    return colour.startsWith("color(srgb") ? [...found.slice(0, 3).map((v) => 255 * v), found[3] ?? 1]
                                           : [...found.slice(0, 3), found[3] ?? 1]; };
  const light = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = (element) => {
    const shape = element.closest("svg g.node") && element.parentElement.querySelector("rect, polygon");
    if (shape) return numbers(getComputedStyle(shape).fill);
    const drawn = element.tagName === "text" && element.parentElement.querySelector(":scope > rect, :scope > polygon");
    if (drawn && element.parentElement.tagName === "g") {
      const own = element.getBoundingClientRect(), box = { x: own.x + own.width / 2, y: own.y + own.height / 2 };
      const shapes = [...element.parentElement.querySelectorAll(":scope > rect, :scope > polygon")].filter((s) => {
        const b = s.getBoundingClientRect();
        return b.left <= box.x && box.x <= b.right && b.top <= box.y && box.y <= b.bottom; });
      if (shapes.length) return numbers(getComputedStyle(shapes.at(-1)).fill);
    }
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      layers.push(numbers(getComputedStyle(one).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => [...over(top, under), 1], [255, 255, 255, 1]);
  };
  const bad = [];
  let seen = 0;
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest("script, style, title, desc, .spoken")) continue;
    const own = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own.length || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    if (style.visibility === "hidden") continue;
    seen += 1;
    const colour = numbers(element.ownerSVGElement ? style.fill : style.color), ground = behind(element);
    const [a, b] = [light(over(colour, ground)), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < LEAST) bad.push([own[0].textContent.slice(0, 40), ratio, colour, ground]);
  }
  return { seen, bad };
})()
""".replace("LEAST", str(LEAST_CONTRAST))

pytestmark = pytest.mark.skipif(
    browser.program() is None, reason="nobody looks at the report's page: no Chromium; apt-get install chromium"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of a finished run, an unfinished one and an empty one."""
    folder = tmp_path_factory.mktemp("pages")
    synthetic_run(folder / "finished", 600)
    synthetic_run(folder / "unfinished", 60, finished=False, raced=False)
    synthetic_run(folder / "empty", 0, finished=False, raced=False)
    found = {}
    for name in ("finished", "unfinished", "empty"):
        found[name] = folder / f"{name}.html"
        write_report(folder / name, found[name])
    return found


@pytest.fixture(autouse=True)
def no_problems(chromium):
    """No test may leave an error or a warning in the console."""
    chromium.problems.clear()
    yield
    assert chromium.problems == []


@pytest.mark.parametrize("name", ["finished", "unfinished", "empty"])
@pytest.mark.parametrize("width", [1200, 360])
def test_every_panel_is_there_and_the_page_does_not_scroll_sideways(chromium, pages, name, width):
    chromium.show(pages[name], width=width)
    for panel in PANELS:
        height = chromium.run(f"document.getElementById('{panel}').getBoundingClientRect().height")
        assert height > 60, panel
        assert chromium.run(f"document.querySelector('#{panel} h2').textContent.length") > 3
    assert chromium.run("document.documentElement.scrollWidth") <= width
    chromium.run("scrollTo(500, 0)")
    assert chromium.run("scrollX") == 0


@pytest.mark.parametrize("name", ["finished", "unfinished", "empty"])
def test_the_overview_fits_a_screen_and_the_rest_is_folded(chromium, pages, name):
    chromium.show(pages[name], width=1400, unfolded=False)
    assert chromium.run("document.querySelector('header').getBoundingClientRect().bottom") < 900
    assert chromium.run("document.documentElement.scrollHeight") < 2 * 900
    assert chromium.run("document.querySelectorAll('.panel .fold[open]').length") == 0
    text = chromium.run("document.querySelector('header').innerText")
    assert text.index("kdzero-gp report") < text.index("A loss for")


def test_a_link_opens_what_it_leads_to(chromium, pages):
    chromium.show(pages["finished"], unfolded=False)
    is_open = "document.querySelector('#{} .fold').open"
    assert not chromium.run(is_open.format("cost"))
    chromium.run("document.querySelector('nav a[href=\"#cost\"]').click()")
    chromium.run("new Promise((done) => setTimeout(done, 100))")
    assert chromium.run(is_open.format("cost")) and not chromium.run(is_open.format("trees"))
    chromium.run("location.hash = 'distiller-2'")
    chromium.run("new Promise((done) => setTimeout(done, 100))")
    assert chromium.run(is_open.format("trees"))
    assert 0 <= chromium.run("document.getElementById('distiller-2').getBoundingClientRect().top") < 900


def test_nothing_is_loaded_but_the_page_itself(chromium, pages):
    chromium.show(pages["finished"])
    assert (
        chromium.run("performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:')).length") == 0
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["finished", "unfinished"])
def test_text_stands_out_from_what_is_behind_it(chromium, pages, name, scheme):
    chromium.show(pages[name], scheme=scheme)
    chromium.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = chromium.run(CONTRAST)
    assert found["seen"] > 200
    assert found["bad"] == []


def test_the_contrast_check_sees_what_is_too_faint(chromium, pages):
    chromium.show(pages["finished"])
    chromium.run("document.querySelector('.caption').style.color = '#aaaaaa'")
    chromium.run("document.querySelector('svg.genealogy text').style.fill = '#cccccc'")
    assert len(chromium.run(CONTRAST)["bad"]) == 2


def test_charts_have_one_width_each_and_their_text_is_readable_on_a_phone(chromium, pages):
    for width, shown in ((1200, "wide"), (360, "narrow")):
        chromium.show(pages["finished"], width=width)
        visible = f"[...document.querySelectorAll('.{shown}')].every((one) => one.getClientRects().length)"
        assert chromium.run(visible)
    smallest = (
        "Math.min(...[...document.querySelectorAll('.chart text')].filter((t) => t.getClientRects().length)"
        ".map((t) => t.getScreenCTM().a * parseFloat(getComputedStyle(t).fontSize)))"
    )
    assert chromium.run(smallest) >= 9.5


def test_tab_reaches_every_interactive_part(chromium, pages):
    chromium.show(pages["finished"])
    kinds = {
        "nav": "nav a", "sort": "th button", "genealogy": ".node", "tools": ".tools button", "scroll": ".scroll",
        "copy": ".copier", "details": "summary", "link": "td a", "skip": ".skip",
    }  # fmt: skip
    reached = set()
    for _ in range(250):
        chromium.press("Tab")
        reached |= {kind for kind, what in kinds.items() if chromium.run(f"document.activeElement.matches('{what}')")}
    assert reached == set(kinds)


def test_the_race_is_sorted_by_the_keyboard(chromium, pages):
    chromium.show(pages["finished"])
    headers = chromium.run("[...document.querySelectorAll('#race th')].map((header) => header.textContent.trim())")
    place = headers.index("test accuracy %")
    cells = f"[...document.querySelectorAll('#race tbody tr')].map((row) => row.cells[{place}].textContent)"
    column = f"{cells}.map(parseFloat)"
    chromium.run(f"document.querySelectorAll('#race th button')[{place}].focus()")
    chromium.press("Enter")
    values = chromium.run(column)
    assert values == sorted(values) and len(values) > 10
    assert chromium.run(f"document.querySelectorAll('#race th')[{place}].getAttribute('aria-sort')") == "ascending"
    chromium.press("Enter")
    assert chromium.run(column) == values[::-1] or sorted(chromium.run(column), reverse=True) == chromium.run(column)


def test_the_genealogy_is_walked_and_read_by_the_keyboard(chromium, pages):
    chromium.show(pages["finished"])
    assert chromium.run("document.querySelectorAll('.node[tabindex=\"0\"]').length") == 1
    chromium.run("document.querySelector('.node.winner').focus()")
    before = chromium.run("document.querySelector('.facts').textContent")
    assert "fitness" in before
    chromium.press("ArrowUp")
    parent = chromium.run("document.activeElement.dataset.key")
    assert parent in chromium.run("document.querySelector('.node.winner').dataset.parents").split()
    assert chromium.run("document.querySelector('.facts').textContent") == before
    chromium.press("Enter")
    after = chromium.run("document.querySelector('.facts').textContent")
    assert after != before and f"{int(parent):,}" in after
    for _ in range(chromium.run("document.querySelectorAll('.node').length")):
        chromium.press("ArrowUp")
    inside = (
        "(() => { const n = document.activeElement.getBoundingClientRect(),"
        " s = document.querySelector('.stage').getBoundingClientRect();"
        " return n.left >= s.left && n.right <= s.right && n.top >= s.top && n.bottom <= s.bottom; })()"
    )
    assert chromium.run("document.activeElement.dataset.parents") == "" and chromium.run(inside)
    scale = "new DOMMatrix(getComputedStyle(document.querySelector('.moved')).transform).a"
    usual = chromium.run(scale)
    chromium.press("+")
    assert chromium.run(scale) > usual
    chromium.press("End")
    assert chromium.run("document.activeElement.classList.contains('winner')")


def test_a_birth_is_chosen_by_the_mouse_and_dragging_moves_the_graph(chromium, pages):
    chromium.show(pages["finished"])
    chromium.run("document.getElementById('genealogy').scrollIntoView()")
    place = chromium.run(
        "(() => { const n = document.querySelector('.node.winner').dataset.parents.split(' ')[0];"
        " const b = document.querySelector(`.node[data-key='${n}']`).getBoundingClientRect();"
        " return [b.left + b.width / 2, b.top + b.height / 2, n]; })()"
    )
    mouse = {"button": "left", "clickCount": 1}
    chromium.call("Input.dispatchMouseEvent", type="mousePressed", x=place[0], y=place[1], **mouse)
    chromium.call("Input.dispatchMouseEvent", type="mouseReleased", x=place[0], y=place[1], **mouse)
    assert chromium.run("document.querySelector('.chosen').dataset.key") == place[2]
    moved = "document.querySelector('.moved').getAttribute('transform')"
    before = chromium.run(moved)
    chromium.call("Input.dispatchMouseEvent", type="mousePressed", x=place[0], y=place[1], **mouse)
    chromium.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0] + 60, y=place[1] + 30, button="left")
    chromium.call("Input.dispatchMouseEvent", type="mouseReleased", x=place[0] + 60, y=place[1] + 30, **mouse)
    assert chromium.run(moved) != before
    assert chromium.run("document.querySelector('.chosen').dataset.key") == place[2]


def test_formulas_are_set_by_the_browser(chromium, pages):
    chromium.show(pages["finished"])
    assert chromium.run("document.querySelectorAll('#distiller-1 math').length") >= 1
    assert chromium.run("document.querySelector('math').getBoundingClientRect().width") > 100


def test_the_page_prints_whole(chromium, pages):
    chromium.show(pages["finished"])
    answer = chromium.call("Page.printToPDF", printBackground=True)
    assert len(answer["data"]) > 50_000
