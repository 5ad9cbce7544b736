"""Open the report of a large sweep: `python many_report_child.py CHROMIUM REPORT SCREENSHOT`.

It writes as JSON what the page holds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
COUNTS = "() => ['*', '#table tr', '#sheet img'].map((what) => document.querySelectorAll(what).length)"
LINES = """() => {
  const box = document.getElementById('table').parentElement.getBoundingClientRect()
  const high = (line) => line.offsetHeight
  const lines = [...document.querySelectorAll('#table tr[aria-rowindex]')]
  const inside = lines.filter((line) => line.getBoundingClientRect().top < box.bottom - 20
    && line.getBoundingClientRect().bottom > box.top + 40)
  return [Number(inside[0].getAttribute('aria-rowindex')), Number(inside.at(-1).getAttribute('aria-rowindex')),
    inside.length, Math.min(...lines.map(high)), Math.max(...lines.map(high))]
}"""
TEXTS = "() => [...document.querySelectorAll('#table tr[aria-rowindex]')].map((line) => line.textContent)"
SCROLL = (
    "(part) => { const box = document.getElementById('table').parentElement; box.scrollTop = part * box.scrollHeight }"
)


def seen(page: Page, screenshot: str) -> dict[str, object]:
    page.evaluate(FRAME)
    found: dict[str, object] = {"at first": page.evaluate(COUNTS), "summary": page.text_content("#summary")}
    page.locator("#table").scroll_into_view_if_needed()
    lines = []
    for part in (0.0, 0.5, 1.0):
        page.evaluate(SCROLL, part)
        page.evaluate(FRAME)
        lines.append(page.evaluate(LINES))
    found["lines"] = lines
    page.screenshot(path=screenshot)
    page.locator("#table th button", has_text="step seconds").click()
    page.evaluate(FRAME)
    found["sorted"] = page.evaluate(
        "() => [...document.querySelectorAll('#table tr[aria-rowindex]')].map((r) => r.textContent)"
    )
    found["after sorting"] = page.evaluate(LINES)
    before = page.locator("#right option").count()
    page.locator("#right").focus()
    found["options"] = [before, page.locator("#right option").count(), page.input_value("#right")]
    page.select_option("#rows", "0")
    page.select_option("#columns", "0")
    page.locator("#sheet").scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('#sheet img').length > 0")
    found["one place"] = page.evaluate(COUNTS)
    return found


def main(chromium: str, report: str, screenshot: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, errors = browser.new_page(viewport={"width": 1200, "height": 900}), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(Path(report).resolve().as_uri())
        found = seen(page, screenshot)
        browser.close()
    json.dump({**found, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
