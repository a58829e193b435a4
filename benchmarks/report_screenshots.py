"""The pictures of docs/report.md: `reports/report.html` of a suite that was run, in Chromium, light, dark and narrow.

    python benchmarks/report_screenshots.py SUITE

Writes docs/images/report_*.png and prints what the browser had to complain of, which must be nothing.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
VIEWS = (  # name, width, light or dark, where it begins and how high it is [px]
    ("light", 1280, "light", 0, 1500),
    ("dark", 1280, "dark", 1500, 1500),
    ("narrow", 390, "light", 0, 1500),
)


def main(suite: Path) -> None:
    from browser import opened

    images = ROOT / "docs/images"
    images.mkdir(exist_ok=True)
    with opened() as page:
        for name, width, scheme, top, height in VIEWS:
            page.look(width=width, scheme=scheme)
            page.open(suite / "reports/report.html")
            clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
            data = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
            (images / f"report_{name}.png").write_bytes(base64.b64decode(data))
        print("complaints:", page.complaints() or "none")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
