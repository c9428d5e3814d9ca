"""``make screenshots``: the pictures of the main pages in docs/screenshots/, taken of the demo.

Each page is shown in light and dark, and as on a phone. A picture is replaced only if the page looks different: ages and
dates in it change every day. After a small change of every page: ARGS=--all.
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageChops
from playwright.sync_api import Browser, Page, StorageState, sync_playwright

from portal.demo import CAST
from portal.processes import Process, ProcessError
from portal.sandbox import seed
from portal.sandbox.client import Control
from tests.browser.chromium import CHROMIUM, FLAGS
from tests.environment import ROOT

DIRECTORY = ROOT / "docs" / "screenshots"
COLOURS = 96  # of the palette, which keeps the files small
SAME = 0.003  # share of pixels that may differ while the existing picture is kept
# Removes the demo's banner, and shows every age in minutes as the same one, however fast this machine is.
_TIDY = """() => {
  document.querySelector(".page-wrapper > .alert[role=note]")?.remove();
  const texts = document.createTreeWalker(document.querySelector("main, body"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    text.data = text.data.replace(/less than a minute|\\b\\d+ minutes?\\b/g, "5 minutes");
  }
}"""


@dataclass(frozen=True, slots=True)
class Shot:
    name: str
    person: str
    path: str


SHOTS = (
    Shot("home", "alice", "/"),
    Shot("connections", "alice", "/connections/"),
    Shot("incident", "alice", "/incidents/2/"),
    Shot("app-registration", "alice", "/apps/1/"),
    Shot("expirations", "alice", "/expiries/"),
    Shot("policy", "alice", "/policy/"),
    Shot("home-member", "bob", "/"),
    Shot("connection", "bob", "/connections/1/"),
    Shot("new-connection", "bob", "/connect/outlook/"),
    Shot("audit-trail", "carol", "/audit/?target_type=Connection"),
)


@dataclass(frozen=True, slots=True)
class Look:
    suffix: str
    width: int
    height: int
    scheme: Literal["light", "dark"]


LOOKS = (Look("", 1280, 800, "light"), Look("-dark", 1280, 800, "dark"), Look("-phone", 390, 780, "light"))


def main() -> int:
    """Take all pictures. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make screenshots", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where the pictures are written")
    parser.add_argument("--all", action="store_true", help="also replace the pictures of pages that look the same")
    options = parser.parse_args()
    if not CHROMIUM:
        print("Chromium is missing. To get it: apt-get install chromium, or set CHROMIUM.", file=sys.stderr)
        return 1
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.all:
        for file in options.directory.glob("*.png"):
            file.unlink()
    try:
        with running_demo(options.port) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=[*FLAGS, "--hide-scrollbars", "--lang=en-GB"],
                env={**os.environ, "LANGUAGE": "en_GB"},
            )
            sessions = {shot.person: sign_in(browser, url, shot.person) for shot in SHOTS}
            break_something(browser, url, sessions["alice"], Control(f"http://localhost:{options.port + 1000}"))
            for look in LOOKS:
                take_all(browser, url, look, sessions, options.directory)
            browser.close()
    except ProcessError as problem:
        print(problem, file=sys.stderr)
        return 1
    remove_others(options.directory)
    return 0


@contextmanager
def running_demo(port: int) -> Iterator[str]:
    """Start a new demo with its data in a temporary directory. Returns its address."""
    with tempfile.TemporaryDirectory(prefix="portal-", ignore_cleanup_errors=True) as directory:
        command = [sys.executable, "-m", "portal.demo", "--port", str(port), "--directory", directory]
        demo = Process("demo", command, log=Path(directory) / "demo.log", directory=ROOT)
        try:
            demo.wait_while_working(lambda: b"Ctrl-C stops everything" in demo.log.read_bytes(), idle_seconds=60)
            yield f"http://localhost:{port}"
        finally:
            demo.stop(seconds=20)


def sign_in(browser: Browser, url: str, person: str) -> StorageState:
    """Sign this person of the demo in, and return the session."""
    page = open_window(browser, url, LOOKS[0])
    page.goto("/sign-in/")
    for summary in page.locator("main details:not([open]) > summary").all():
        summary.click()
    page.get_by_label("Username").fill(person)
    page.locator("main").get_by_label("Password").fill(CAST[person]["password"])
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"{url}/")
    session = page.context.storage_state()
    page.context.close()
    return session


def open_window(browser: Browser, url: str, look: Look, session: StorageState | None = None) -> Page:
    return browser.new_context(
        base_url=url,
        locale="en-GB",
        timezone_id="UTC",
        viewport={"width": look.width, "height": look.height},
        color_scheme=look.scheme,
        storage_state=session,
    ).new_page()


def break_something(browser: Browser, url: str, session: StorageState, sandbox: Control) -> None:
    """Let a client secret expire and the portal notice it, so that there is an incident."""
    (robots,) = [app for app in sandbox.state()["apps"] if app["client_id"] == seed.ROBOTS_APP]
    for secret in robots["secrets"]:
        sandbox.expire_secret(seed.ROBOTS_APP, secret["id"])
    page = open_window(browser, url, LOOKS[0], session)
    page.goto("/apps/2/")
    page.get_by_role("button", name="Test connection").click()
    page.wait_for_load_state()
    for _ in range(30):  # until the worker has sent the alerts
        page.goto("/incidents/2/")
        if not page.get_by_text("waiting").count():
            break
        page.wait_for_timeout(1000)
    page.context.close()


def take_all(browser: Browser, url: str, look: Look, sessions: dict[str, StorageState], directory: Path) -> None:
    for person, session in sessions.items():
        page = open_window(browser, url, look, session)
        for shot in SHOTS:
            if shot.person == person:
                take(page, shot, directory / f"{shot.name}{look.suffix}.png")
        page.context.close()


def take(page: Page, shot: Shot, file: Path) -> None:
    """Write the picture. Raises ProcessError if the page isn't there."""
    response = page.goto(shot.path, wait_until="networkidle")
    if response is None or response.status != 200:
        raise ProcessError(f"{shot.path} can't be shown to {shot.person}: {response and response.status}")
    page.evaluate(_TIDY)
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled", caret="hide"))).convert("RGB")
    kept = file.is_file() and looks_same(picture, Image.open(file).convert("RGB"))
    if not kept:
        picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"  {file.name}: {'unchanged' if kept else f'{file.stat().st_size // 1000} kB'}", flush=True)


def looks_same(new: Image.Image, old: Image.Image) -> bool:
    """Whether nearly all pixels have nearly the same colour."""
    if new.size != old.size:
        return False
    difference = ImageChops.difference(new, old).convert("L").point(lambda value: 255 if value > 24 else 0)
    return difference.histogram()[255] < SAME * new.width * new.height


def remove_others(directory: Path) -> None:
    """Remove pictures that are no longer taken."""
    taken = {f"{shot.name}{look.suffix}.png" for shot in SHOTS for look in LOOKS}
    for file in directory.glob("*.png"):
        if file.name not in taken:
            file.unlink()


if __name__ == "__main__":
    sys.exit(main())
