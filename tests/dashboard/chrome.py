"""Debian's Chromium, driven by selenium, and what a test asks of a page."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from cloudq.testing import eventually

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_AXE = Path(__file__).parent / "axe" / "axe.min.js"
_TALLEST = 4000


class Chrome:
    """A window on a dashboard."""

    def __init__(self, base: str) -> None:
        self.base = base
        options = Options()
        options.binary_location = _program("chromium")
        self._folder = tempfile.mkdtemp()
        for flag in (*_FLAGS, f"--user-data-dir={self._folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(_program("chromedriver")))
        self.resize(1440)

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
        shutil.rmtree(self._folder, ignore_errors=True)

    def open(self, path: str) -> None:
        """Load a page."""
        self.driver.get(f"{self.base}{path}")

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.base)

    @property
    def text(self) -> str:
        """The text of the page as people see it."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def await_text(self, text: str) -> None:
        """Wait until a text is on the page."""
        eventually(lambda: text in self.text)

    def find(self, selector: str) -> WebElement:
        """Wait for an element."""
        return eventually(lambda: self.all(selector))[0]

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def press(self, label: str) -> None:
        """Press the button, or follow the link, of this label, once it is there."""

        def pressed() -> bool:
            for element in self.all("button, a"):
                try:
                    if element.text.strip() == label and element.is_displayed():
                        element.click()
                        return True
                except StaleElementReferenceException:  # the page has renewed itself
                    return False
                except WebDriverException as error:
                    if "does not belong to the document" not in str(error):
                        raise
                    return False
            return False

        eventually(pressed)

    def type(self, selector: str, text: str) -> None:
        """Write into a field, in place of what is there."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def resize(self, width: int, *, dark: bool = False) -> None:
        """Show the page as wide as this, in the light or the dark."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def width(self) -> int:
        """Return the width of what is on the page; a phone's window grows with it."""
        found: int = self.driver.execute_script("return document.documentElement.scrollWidth")
        return found

    def faults(self) -> list[str]:
        """Return what axe finds wrong with the page: the rules of WCAG A and AA, and good ways."""
        if not self.driver.execute_script("return typeof axe === 'object'"):
            self.driver.execute_script(_AXE.read_text())
        script = "const done = arguments[0]; axe.run(document).then(done)"
        self.driver.set_script_timeout(60)
        found: dict[str, Any] = self.driver.execute_async_script(script)
        return [
            f"{fault['id']}: {node['target']} {node['failureSummary']}"
            for fault in found["violations"]
            for node in fault["nodes"]
        ]

    def complaints(self) -> list[str]:
        """Return what the browser has complained of: refused scripts, styles and requests."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def picture(self, file: Path) -> None:
        """Take a picture of the whole page."""
        script = "return [document.documentElement.scrollHeight, window.innerWidth]"
        height, width = self.driver.execute_script(script)
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, _TALLEST), "scale": 1}
        asked = {"captureBeyondViewport": True, "clip": clip}
        found = self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)
        file.write_bytes(base64.b64decode(found["data"]))


def _program(name: str) -> str:
    """Return the path of a program; without it the test is skipped, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        text = f"{name} is not installed: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def window(base: Callable[[], str]) -> Iterator[Chrome]:
    """Open a window, and close it at the end."""
    chrome = Chrome(base())
    try:
        yield chrome
    finally:
        chrome.close()
