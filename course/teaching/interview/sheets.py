"""Printable sheets: one HTML page for each topic, for A4, complete in itself: no script, no font, no picture from elsewhere."""

from ..panels.parts import escape, rich
from ..session import NOTEBOOKS
from .bank import TOPICS, choose

_STYLE = """
@page{size:A4;margin:16mm 15mm}
body{font:10.5pt/1.42 Georgia,'Times New Roman',serif;color:#111;background:#fff;max-width:180mm;margin:0 auto;padding:8mm 4mm}
h1{font-size:17pt;margin:0 0 2mm}h2{font-size:11.5pt;margin:0 0 1mm}
article{break-inside:avoid;border-top:.4pt solid #777;padding:3mm 0 2mm}
p,ul{margin:0 0 1.4mm}ul{padding-left:5mm}
.level{font-weight:normal;color:#444}.where{color:#444;font-size:9pt}
@media print{body{padding:0;max-width:none}}
"""


def sheet(topic: str) -> str:
    """The page of a topic.

    >>> "size:A4" in sheet("bits") and "http" not in sheet("bits")
    True
    """
    items = choose(topics=[topic])
    title = f"{TOPICS[topic][0].upper()}{TOPICS[topic][1:]}: {len(items)} interview questions"
    body = "\n".join(_article(number, item) for number, item in enumerate(items, 1))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def _article(number, item):
    must = "".join(f"<li>{rich(point)}</li>" for point in item.must)
    source = f" Source: {escape(item.source)}" if item.source else ""
    return (
        f'<article><h2>{number}. {rich(item.question)} <span class="level">({item.level})</span></h2>'
        f"<p><b>{rich(item.short)}</b></p><p>{rich(item.long)}</p><p>Must mention:</p><ul>{must}</ul>"
        f"<p><i>The trap:</i> {rich(item.trap)}</p><p><i>Follow-up:</i> {rich(item.follow_up)}</p>"
        f'<p class="where">{escape(item.id)}. Notebook {item.notebook} ({NOTEBOOKS[item.notebook]}), cell {escape(item.see.partition("#")[2])}.{source}</p></article>'
    )
