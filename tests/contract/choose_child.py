"""Answer the page of `patchbay choose` by keyboard: `python choose_child.py CHROMIUM ADDRESS SCREENSHOT`.

It runs in ComfyUI's environment, for its playwright, and writes as JSON what the page shows.
"""

from __future__ import annotations

import json
import sys

from playwright.sync_api import Page, sync_playwright

SHADE = """(id) => {
  const canvas = document.createElement('canvas')
  canvas.width = canvas.height = 1
  const context = canvas.getContext('2d')
  context.drawImage(document.getElementById(id), 0, 0)
  return context.getImageData(0, 0, 1, 1).data[0]
}"""
READY = "(text) => !document.querySelector('main.waiting') && document.getElementById('count').textContent === text"


def press(page: Page, key: str, then: str) -> None:
    page.keyboard.press(key)
    page.wait_for_function(READY, arg=then)


def answered(page: Page, screenshot: str) -> dict[str, object]:
    """Take one answer back, say no difference once, and like what is brighter for the rest."""
    page.wait_for_function(READY, arg="0 answered, 6 left")
    page.screenshot(path=screenshot)
    sources = page.evaluate(
        "() => [...document.images].map((image) => new URL(image.src).pathname.split('/').slice(2))"
    )
    press(page, "ArrowRight", "1 answered, 5 left")
    press(page, "Backspace", "0 answered, 6 left")
    page.keyboard.press("x")
    press(page, "ArrowDown", "1 answered, 5 left")
    for left in range(4, -1, -1):
        key = "ArrowLeft" if page.evaluate(SHADE, "left") > page.evaluate(SHADE, "right") else "ArrowRight"
        page.keyboard.press(key)
        if left:
            page.wait_for_function(READY, arg=f"{6 - left} answered, {left} left")
    page.wait_for_function("() => document.querySelector('main').textContent.startsWith('Every pair')")
    return {"sources": sources, "text": page.inner_text("main"), "names": page.content().count("3.cfg")}


def main(chromium: str, address: str, screenshot: str) -> None:
    """Print what the page shows."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, errors = browser.new_page(viewport={"width": 1000, "height": 600}), []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        found = answered(page, screenshot)
        browser.close()
    json.dump({**found, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
