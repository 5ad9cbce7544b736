"""Open the report of a sweep from its file: `python report_child.py CHROMIUM REPORT SCREENSHOT`.

It runs in ComfyUI's environment, for its playwright, without a network, and writes as JSON what the page shows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

COLUMN = """name => {
  const heads = [...document.querySelectorAll('#table th')]
  const place = heads.findIndex((head) => head.textContent.startsWith(name))
  return [...document.querySelectorAll('#table tr')].slice(1).map((row) => row.cells[place].textContent)
}"""
PICTURES = "() => [...document.images].map(picture => [picture.complete, picture.naturalWidth])"
SHOWN = "() => ['below', 'above'].map(id => document.getElementById(id).getAttribute('src'))"
CHOICE = "() => ['left', 'right'].map(id => document.getElementById(id).selectedOptions[0].text)"
SHEET = """() => {
  const shown = (cell) => (cell.tagName === 'TH' ? cell.textContent : cell.querySelectorAll('img').length)
  return [...document.querySelectorAll('#sheet tr')].map((row) => [...row.cells].map(shown))
}"""
STRIP = """() => [...document.querySelectorAll('#strip button')].map((one) => [one.textContent, one.ariaPressed])"""
CUT = """() => {
  const { left, right } = document.getElementById('plot').getBoundingClientRect()
  const texts = [...document.querySelectorAll('#plot text')]
  const isCut = (box) => box.left < left || box.right > right
  return texts.filter((text) => isCut(text.getBoundingClientRect())).map((text) => text.textContent)
}"""
CLIP = "() => document.getElementById('above').style.clipPath"


def seen(page: Page, screenshot: str) -> dict[str, object]:
    """Use everything on the page once."""
    found: dict[str, object] = {"summary": page.text_content("#summary"), "sheet": page.evaluate(SHEET)}
    page.select_option("#rows", "0")
    found["one row"] = page.evaluate(SHEET)
    page.select_option("#rows", "2")
    page.locator("#table th button", has_text="step seconds").click()
    found["up"] = page.evaluate(COLUMN, "step seconds")
    page.locator("#table th button", has_text="step seconds").click()
    found["down"] = page.evaluate(COLUMN, "step seconds")
    found["left and right"] = page.evaluate(CHOICE)
    page.locator("#sheet figure button").last.focus()
    page.keyboard.press("Enter")
    found["chosen"] = page.evaluate(SHOWN)
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    found["clip"] = [page.evaluate(CLIP)]
    page.keyboard.press("End")
    found["clip"] += [page.evaluate(CLIP)]
    page.locator("#slider").fill("50")
    page.locator("#compare").hover(position={"x": 128, "y": 10})
    found["clip"] += [page.evaluate(CLIP)]
    found |= look_at_difference(page, screenshot)
    found["names"] = page.locator("#sheet figcaption.place").all_text_contents()
    found["note"] = page.locator("#settings-note").all_text_contents()
    found["cut"] = page.evaluate(CUT)
    found["points"] = page.locator("#plot circle").count()
    found["errors of cells"] = page.locator("#sheet .error").all_text_contents()
    page.wait_for_timeout(300)
    found["pictures"] = page.evaluate(PICTURES)
    page.screenshot(path=screenshot, full_page=True)
    page.set_viewport_size({"width": 400, "height": 800})
    found["wider than a telephone"] = page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    return found


def look_at_difference(page: Page, screenshot: str) -> dict[str, object]:
    """Walk along the strip by keys, and look at where the pictures differ."""
    found: dict[str, object] = {"strip": [page.evaluate(STRIP)]}
    page.locator("#strip button").first.focus()
    page.keyboard.press("ArrowRight")
    found["strip"] = [*found["strip"], page.evaluate(STRIP)]
    found |= {"walked": page.evaluate(SHOWN), "told": page.text_content("#told")}
    page.locator("#differs").focus()
    page.keyboard.press("Space")
    found["most"] = page.locator("#scale").input_value()
    page.wait_for_timeout(300)
    page.locator("#compare").screenshot(path=Path(screenshot).with_name("difference.png"))
    page.screenshot(path=Path(screenshot).with_name("with difference.png"), full_page=True)
    page.keyboard.press("Space")
    return found


def main(chromium: str, report: str, screenshot: str) -> None:
    """Print what the page shows."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
        page, errors, asked = context.new_page(), [], []

        def on_console(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                errors.append(message.text)

        def on_request(request: Request) -> None:
            asked.append(request.url)

        page.on("console", on_console)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", on_request)
        page.goto(Path(report).resolve().as_uri())
        found = seen(page, screenshot)
        browser.close()
    json.dump({**found, "errors": errors, "asked": asked}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
