"""A page of its own: one file, nothing from elsewhere, light or dark as the reader's system is."""

from __future__ import annotations

import html

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #ffffff; --faint: #00000014; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #15171b; --faint: #ffffff1f; }
  svg polyline, svg circle, svg line[stroke-width] { filter: brightness(1.4); } }
body { margin: 2rem auto; max-width: 78rem; padding: 0 1.5rem; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
h1 { font-size: 1.5rem; font-weight: 600; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; font-weight: 600; margin: 2rem 0 .5rem; }
figure { flex: 1 1 26rem; min-width: 0; } figure > svg { width: 100%; } p { opacity: .75; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th { font-weight: 600; } td, th { border-bottom: 1px solid var(--faint); } tbody tr:hover { background: var(--faint); }
"""


def page_of(title: str, body: str, style: str = "") -> str:
    """Wrap a body, which is HTML already, under a title, which is text; with a style of its own where it needs one."""
    shown = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<h1>{shown}</h1>\n{body}\n</body>\n</html>\n"
    )
