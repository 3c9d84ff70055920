"""The page in a real browser."""

import itertools

import pytest

from swa_tools.report.style import DARK, LIGHT

WIDTHS = (380, 1400)
VIEWS = list(itertools.product(WIDTHS, (False, True)))


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_page_loads_without_a_request_or_a_complaint(browser, full_page, width, dark):
    browser.open(full_page, width=width, dark=dark)
    assert browser.requests() == [full_page.resolve().as_uri()]
    assert browser.complaints() == []


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_nothing_is_wider_than_the_screen(browser, full_page, width, dark):
    browser.open(full_page, width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    wide = browser.evaluate("""
        [...document.body.querySelectorAll('*')]
            .filter(e => !e.closest('.scroll table') && !e.matches('.skip'))
            .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
            .map(e => e.outerHTML.slice(0, 80))
    """)
    assert wide == []


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_images_are_there_in_the_variant_for_the_screen(browser, full_page, width, dark):
    browser.open(full_page, width=width, dark=dark)
    shown = browser.evaluate("""
        [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width,
            i.currentSrc === i.src])
    """)
    assert len(shown) == 1 + 4 + 4
    for natural_width, shown_width, is_default in shown:
        assert natural_width > 0
        assert 300 < shown_width <= width
        assert is_default == (width == 1400 and not dark)
        if width == 380:
            assert natural_width <= 420  # drawn for a narrow screen, so that its text is readable


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_those_of_the_theme(browser, full_page, dark):
    browser.open(full_page, width=1400, dark=dark)
    theme = DARK if dark else LIGHT
    expected = "rgb({}, {}, {})".format(*bytes.fromhex(theme.paper[1:]))
    shown = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert shown == expected


def test_everything_is_reached_by_keyboard(browser, full_page):
    browser.open(full_page, width=380)
    reached = []
    n_stops = browser.evaluate(
        "[...document.querySelectorAll('a, summary, [tabindex]')]"
        ".filter(e => e.checkVisibility()).length"
    )
    for _ in range(n_stops):
        browser.press("Tab")
        reached.append(
            browser.evaluate(
                "document.activeElement.tagName + '.' + document.activeElement.className"
            )
        )
        outline = browser.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    assert reached[0] == "A.skip"
    assert {"A.", "DIV.scroll", "SUMMARY."} <= set(reached)


def test_wide_tables_scroll_by_themselves_on_a_phone(browser, full_page):
    browser.open(full_page, width=380)
    scrolls = browser.evaluate("""
        [...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility())
            .map(e => e.scrollWidth > e.clientWidth)
    """)
    assert any(scrolls)


def test_a_phone_shows_the_average_and_its_interval_without_scrolling(browser, full_page):
    browser.open(full_page, width=380)
    right = browser.evaluate("""
        [...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility()).map(e =>
            [...e.querySelectorAll('thead th')].map(
                th => [th.textContent, th.getBoundingClientRect().right]))
    """)
    for table, column in ((right[0], "average"), (right[1], "95 %")):
        assert dict(table)[column] <= 380


def test_rows_of_a_phone_have_no_empty_lines(browser, full_page):
    """Text that is scrolled to does not make rows high; only a long name does."""
    browser.open(full_page, width=380)
    heights = browser.evaluate("""
        [...document.querySelectorAll('.scroll td')].filter(e => e.checkVisibility())
            .map(e => e.getClientRects()[0].height - e.parentElement.firstElementChild.clientHeight)
    """)
    assert heights
    assert max(heights) <= 2


@pytest.mark.parametrize("width", WIDTHS)
def test_names_of_rows_stay_when_a_table_is_scrolled(browser, full_page, width):
    browser.open(full_page, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    moved = browser.evaluate("""
        [...document.querySelectorAll('.scroll')].map(e => {
            const name = e.querySelector('tbody th'), before = name.getBoundingClientRect().left;
            e.scrollLeft = 10000;
            return [e.scrollLeft, name.getBoundingClientRect().left - before];
        })
    """)
    assert max(distance for distance, _ in moved) > (50 if width == 380 else 0)
    assert all(abs(shift) < 1 for _, shift in moved)


def test_accessibility_tree_names_images_and_regions(browser, full_page):
    browser.open(full_page, width=1400)
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    names = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    assert len(names["image"]) == 9
    assert all(name.endswith(".") for name in names["image"])
    assert all(names["region"])
    assert names["main"]
