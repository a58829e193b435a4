"""The page in a real Chromium: nothing is fetched or refused, nothing juts out, hover and keyboard tell the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Page, opened

from compression_gate.stages import report

TAB, ESCAPE = 9, 27
TIP = "[getComputedStyle(document.getElementById('tip')).opacity, document.getElementById('tip').textContent]"
JUTTING = """[...document.querySelectorAll('.page *')].filter(one => !one.closest('.scroll') && !one.closest('svg')
  && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"""
# Contrast of every text that is shown against the page's background, as WCAG 2.2 reckons it (relative luminance).
CONTRAST = """(() => {
  const box = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (colour) => { box.clearRect(0, 0, 1, 1); box.fillStyle = colour; box.fillRect(0, 0, 1, 1);
    return [...box.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = (colour) => { const [r, g, b] = rgb(colour).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92
    : ((c + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (one) => { for (; one; one = one.parentElement) { const colour = getComputedStyle(one).backgroundColor;
    if (!/, 0\\)$/.test(colour) && colour !== 'transparent') return colour; } return 'white'; };
  const WORDS = 'h1, h2, p, td, th, li, dt, dd, summary, small, figcaption, code, text', found = [];
  for (const one of document.querySelectorAll(WORDS)) {
    if (!one.textContent.trim() || !one.getClientRects().length || one.matches('.none, .cm td')) continue;
    const style = getComputedStyle(one);
    const a = light(one.matches('text') ? style.fill : style.color), b = light(behind(one));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${one.outerHTML.slice(0, 90)}`);
  }
  return found;
})()"""


@pytest.fixture
def page(whole: Path):
    """A browser, and the report of a run to show in it."""
    report.run(whole)
    with opened() as browser:
        yield browser, whole / "reports/report.html"


def test_page_fits_every_width_in_light_and_dark_and_can_be_read(page: tuple[Page, Path]) -> None:
    browser, path = page
    for width in (360, 760, 1000, 1440):
        for scheme in ("light", "dark"):
            browser.look(width=width, scheme=scheme)
            browser.open(path)
            assert browser.value(JUTTING) == [], (width, scheme)
            assert browser.value(CONTRAST) == [], (width, scheme)
    assert browser.complaints() == []


def test_dark_and_light_follow_the_reader(page: tuple[Page, Path]) -> None:
    browser, path = page
    colours = []
    for scheme in ("light", "dark"):
        browser.look(width=1280, scheme=scheme)
        browser.open(path)
        colours.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(16, 19, 23)"]


def test_pointer_and_keyboard_show_the_same_words_and_escape_hides_them(page: tuple[Page, Path]) -> None:
    browser, path = page
    browser.look(width=1280)
    browser.open(path)
    browser.point("#trade g[data-tip]")
    opacity, pointed = browser.value(TIP)
    assert (opacity, pointed.split(":")[0]) == ("1", "reference")
    browser.value("scrollTo(0, 0)")
    browser.frames()
    assert browser.value(TIP)[0] == "0"
    browser.value("document.querySelector('#trade g[data-tip]').focus()")
    browser.frames()  # which scrolls down to it
    assert browser.value(TIP) == ["1", pointed]
    browser.key("Escape", ESCAPE)
    assert browser.value(TIP)[0] == "0"


def test_folds_and_marks_are_reached_by_the_tab_key(page: tuple[Page, Path]) -> None:
    browser, path = page
    browser.look(width=1280)
    browser.open(path)
    wanted = browser.value("document.querySelectorAll('summary, [tabindex]').length")
    reached = set()
    for _ in range(wanted + 2):
        browser.key("Tab", TAB)
        reached.add(browser.value("document.activeElement.tagName"))
    assert {"SUMMARY", "g", "svg"} <= reached


def test_paper_shows_what_is_folded_away(page: tuple[Page, Path]) -> None:
    browser, path = page
    browser.look(width=760, media="print", scheme="dark")
    browser.open(path)
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.value("document.querySelectorAll('details:not([open])').length") > 0
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("document.querySelectorAll('details:not([open])').length") == 0
    assert browser.call("Page.printToPDF")["data"]
