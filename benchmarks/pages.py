"""A report, opened in headless Chromium: errors, requests, figures, tabs, hover, and accessibility by axe-core.

`make pages` sets up what it needs (Playwright and axe-core in an environment of their own, Debian's Chromium) and opens
the report of the demo. Pictures go to the folder of `--shots`, to be looked at.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
AXE = Path(__file__).parents[1] / ".venv/pages/axe/package/axe.min.js"
GOALS = {
    "script errors": 0,
    "requests": 0,
    "figures not drawn": 0,
    "tabs that show nothing": 0,
    "keys that move no tab": 0,
    "figures without hover": 0,
    "wider than the screen, px": 0,
    "violations of axe-core": 0,
}


def look(page: Page, report: Path, shots: Path | None, name: str) -> dict[str, Any]:
    """Go through the page as a reader would, and count what is wrong."""
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("[role=tab]")
    missing, empty, mute, violations = [], [], [], []
    tabs = page.get_by_role("tab").all()
    wide = 0
    for tab in tabs:
        tab.click()
        panel = page.locator(f"#{tab.get_attribute('aria-controls')}")
        if not panel.is_visible() or len(panel.inner_text()) < 20:
            empty.append(tab.inner_text())
        for plot in panel.locator(".plot").all():
            label = str(plot.get_attribute("aria-label"))
            plot.scroll_into_view_if_needed()
            page.wait_for_timeout(100)
            if plot.locator(".main-svg").count() == 0 or not plot.locator(".points path, .heatmaplayer image").count():
                missing.append(label)
            elif not _says_something(page, plot):
                mute.append(label)
        wide = max(wide, page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
        violations += _axe(page, errors)
        if shots is not None:
            page.mouse.move(0, 0)
            page.screenshot(path=shots / f"{name}-{tab.get_attribute('aria-controls')}.png", full_page=True)
    return {
        "page": name,
        "script errors": errors,
        "requests": [url for url in requests if not url.startswith(("file:", "data:", "blob:"))],
        "figures not drawn": missing,
        "tabs that show nothing": empty,
        "keys that move no tab": _keys(page, len(tabs)),
        "figures without hover": mute,
        "wider than the screen, px": wide,
        "violations of axe-core": violations,
    }


def _says_something(page: Page, plot: Any) -> bool:
    """Whether some place of the figure shows numbers under the mouse."""
    box = plot.bounding_box()
    marks = plot.locator(".points path").all()[:40]
    places = [mark.bounding_box() for mark in marks] or [
        {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "width": 0, "height": 0}
    ]
    for place in places:
        if place is None:
            continue
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.wait_for_timeout(120)
        if plot.locator(".hovertext").count():
            return True
    return False


def _keys(page: Page, number: int) -> list[str]:
    """The arrow keys go round all tabs."""
    page.get_by_role("tab").first.click()
    wrong = []
    for step in range(1, number + 1):
        page.keyboard.press("ArrowRight")
        chosen = page.locator("[role=tab][aria-selected=true]")
        if chosen.get_attribute("id") != page.get_by_role("tab").nth(step % number).get_attribute("id"):
            wrong.append(f"step {step}")
    return wrong


def _axe(page: Page, errors: list[str]) -> list[str]:
    """What axe-core finds: the rule, and the first element that breaks it."""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {node['target'][0]}: {(node.get('failureSummary') or '').splitlines()[-1].strip()}"
        for rule in found["violations"]
        for node in rule["nodes"][:3]
    ]


def main() -> int:
    """Every width in light and dark. Returns 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shots", type=Path)
    given = parser.parse_args()
    if given.shots is not None:
        given.shots.mkdir(parents=True, exist_ok=True)
    rows = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width in WIDTHS:
            for scheme in SCHEMES:
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
                rows.append(look(page, given.report.resolve(), given.shots, f"{width}-{scheme}"))
                page.close()
        version = browser.version
        browser.close()
    size = given.report.stat().st_size
    claims = [
        {
            "claim": name,
            "goal": goal,
            "measured": sum(row[name] if isinstance(row[name], int) else len(row[name]) for row in rows),
        }
        for name, goal in GOALS.items()
    ]
    claims.append({"claim": "bytes of the page", "goal": 6_000_000, "measured": size})
    for claim in claims:
        claim["holds"] = claim["measured"] <= claim["goal"]
        print(f"{'✓' if claim['holds'] else '✕'} {claim['claim']}: {claim['measured']} (at most {claim['goal']})")
    for row in rows:
        for name in GOALS:
            for what in row[name] if isinstance(row[name], list) else ():
                print(f"  {row['page']}: {name}: {what}")
    if given.json is not None:
        given.json.write_text(
            json.dumps({"environment": {"chromium": version}, "rows": rows, "claims": claims}, indent=1)
        )
    return 0 if all(claim["holds"] for claim in claims) else 1


if __name__ == "__main__":
    raise SystemExit(main())
