"""A report's page taken apart, and looked at in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """What of a page matters here: its elements, the ids of its sections, and every address it names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        if tag == "section":
            self.sections.append(known.get("id") or "")
        self.addresses += [known[key] or "" for key in ("src", "href", "srcset", "poster", "action") if key in known]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["script"] and self.tags[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def figures(self) -> int:
        return self.source.count('<div class="plot"')


# before the page's own scripts: the frame that is named #dark is drawn for a reader who prefers dark colours
DARK = """<head><script>
if (location.hash === "#dark") window.matchMedia = () => ({ matches: true, addEventListener() {} });
</script>"""
PROBE = """<script>
setTimeout(async () => {
  const plots = [...document.querySelectorAll(".plot")];
  const rows = document.querySelector("table.sortable").tBodies[0].rows;
  const button = document.querySelector("table.sortable th button");
  const order = () => [...rows].map((row) => Number(row.cells[0].textContent));
  button.click(); const falling = order();
  button.click(); const rising = order();
  const lines = plots.find((plot) => plot.data.some((trace) => trace.meta === "highlight"));
  lines.scrollIntoView({ behavior: "instant", block: "center" });
  const box = lines.querySelector(".scatterlayer .trace:last-of-type .point, .scatterlayer .point").getBoundingClientRect();
  const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
  lines.querySelector(".nsewdrag").dispatchEvent(new MouseEvent("mousemove", at));
  await new Promise((done) => setTimeout(done, 300)); // Plotly waits a little before it answers a pointer
  const marked = lines.data.find((trace) => trace.meta === "highlight").x.length;
  const background = getComputedStyle(plots[0].querySelector("svg.main-svg")).backgroundColor;
  for (const part of document.querySelectorAll("details")) part.open = true;
  const overflow = document.documentElement.scrollWidth - window.innerWidth;
  const images = [...document.images];
  const sounds = [...document.querySelectorAll("audio")].slice(0, 4);
  await Promise.all(sounds.map((sound) => new Promise((done) => {
    sound.addEventListener("loadedmetadata", done); sound.addEventListener("error", done); sound.load();
  })));
  let cut = 0;
  if (location.hash !== "#dark") { // paper is always light
    window.dispatchEvent(new Event("beforeprint"));
    const edge = document.querySelector("main").getBoundingClientRect().right;
    const inside = [...document.querySelectorAll(".scroll table, .trials table, .plot, .cards")];
    cut = inside.filter((part) => part.getBoundingClientRect().right > edge + 1).length;
    window.dispatchEvent(new Event("afterprint"));
  }
  parent.postMessage({
    width: window.innerWidth, error: document.documentElement.dataset.error || null, plots: plots.length,
    drawn: plots.filter((plot) => plot.querySelector("svg.main-svg .plot, svg.main-svg .shapelayer")).length,
    overflow, falling, rising, marked, background, cut,
    links: [...document.querySelectorAll('a[href^="#"]')].filter((a) => !document.querySelector(a.hash)).length,
    images: images.length, seen: images.filter((image) => image.naturalWidth > 0).length,
    heard: sounds.map((sound) => sound.duration),
  }, "*");
}, 300);
</script></body>"""
FRAMES = """<body><iframe src="probe.html#dark" width="375" height="700"></iframe>
<iframe src="probe.html" width="1280" height="700"></iframe>
<script>window.addEventListener("message", (event) => {
  const result = document.body.appendChild(document.createElement("pre"));
  result.textContent = JSON.stringify(event.data);
});</script></body>"""


def probe(page: Page, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What a browser makes of the page on a phone (in the dark) and on a desktop, and the lines of its console."""
    source = page.source.replace("<head>", DARK, 1).replace("</body>", PROBE)
    (folder / "probe.html").write_text(source, encoding="utf-8")
    (folder / "frames.html").write_text(FRAMES, encoding="utf-8")
    for budget in (8_000, 30_000, 90_000):  # virtual time runs ahead of the sounds' decoder where a machine is busy
        done = chromium(folder, f"--virtual-time-budget={budget}", "--dump-dom", (folder / "frames.html").as_uri())
        found = [json.loads(html.unescape(result)) for result in re.findall(r"<pre>(.*?)</pre>", done.stdout)]
        if len(found) == 2:
            break
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return sorted(found, key=lambda result: int(result["width"])), console


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a browser without a window and without a network."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
