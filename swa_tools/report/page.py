"""One HTML page about runs: no network, no script, works from a file."""

import base64
import html
from collections.abc import Iterable, Sequence

from swa_tools import __version__
from swa_tools.report.contents import RunSection, Section
from swa_tools.report.page_style import NARROW_PIXELS, STYLE_SHEET
from swa_tools.report.picture import Picture
from swa_tools.report.tables import Table

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser is told to fetch nothing, so nothing that slipped into the page can be fetched."""

PIXELS_PER_INCH = 96


def render_page(title: str, overview: Section, sections: Sequence[RunSection]) -> bytes:
    """Return the page.

    Args:
        title: Of the page.
        overview: What comes before the runs.
        sections: The runs.
    """
    anchors = [f"run-{number}" for number in range(1, len(sections) + 1)]
    links = "".join(
        f'<li><a href="#{anchor}">{_text(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    body = "".join(_run(section, anchor) for anchor, section in zip(anchors, sections, strict=True))
    comparison = ""
    if len(sections) > 1:
        comparison = (
            f'<section aria-labelledby="overview"><h2 id="overview">{_text(overview.title)}</h2>'
            f"{_content(overview)}</section>"
        )
    navigation = f'<nav aria-label="Runs"><ul>{links}</ul></nav>' if len(sections) > 1 else ""
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{_text(title)}</title>
<style>{STYLE_SHEET}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header><h1>SWA report</h1>{navigation}</header>
<main id="content">
{comparison}
{body}
</main>
<footer><p>swa-tools {_text(__version__)}</p></footer>
</body>
</html>
"""
    return page.encode("utf-8", "replace")


def _run(section: RunSection, anchor: str) -> str:
    facts = "".join(
        f"<dt>{_text(title)}</dt><dd>{_text(value)}</dd>" for title, value in section.facts
    )
    commands = "".join(
        f"<h4>{_text(what)}</h4><pre><code>{_text(command)}</code></pre>"
        for what, command in section.commands
    )
    parts = [
        f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{_text(section.title)}</h2>',
        _content(section),
        f"<h3>What the run was</h3><dl>{facts}</dl>" if facts else "",
        _details("How to obtain these numbers again", commands) if commands else "",
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _content(section: Section) -> str:
    parts = [f'<p class="lead">{_text(line)}</p>' for line in section.lead]
    parts += [_table(table, label=section.title) for table in section.tables]
    parts += [
        _details(title, _table(table, label=f"{section.title}: {title}"))
        for title, table in section.more_tables
    ]
    for name, picture in section.pictures.items():
        parts.append(_figure(picture))
        tables = section.picture_tables.get(name, ())
        if tables:
            content = "".join(_table(table, label=picture.title) for table in tables)
            parts.append(_details("The numbers of this picture", content))
    return "\n".join(parts)


def _details(title: str, content: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{content}</details>"


def _table(table: Table, *, label: str) -> str:
    """Return a table in a region that scrolls by itself, and can be reached by keyboard."""
    head = "".join(
        f'<th scope="col"{_style(column, table)}>{_text(column)}</th>' for column in table.columns
    )
    rows = "".join(
        f'<tr class="{_text(kind)}">{_row(row, table)}</tr>'
        for kind, row in zip(table.kinds, table.rows, strict=True)
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(label)}, table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="note">{_text(table.caption)}</p>'
    )


def _row(row: Sequence[str], table: Table) -> str:
    cells = [f'<th scope="row">{_text(row[0])}</th>']
    for column, cell in zip(table.columns[1:], row[1:], strict=True):
        cells.append(f"<td{_style(column, table)}>{_text(cell)}</td>")
    return "".join(cells)


def _style(column: str, table: Table) -> str:
    return ' class="text"' if column in table.text_columns else ""


def _figure(picture: Picture) -> str:
    """Return a picture in four variants, of which the browser shows one."""
    narrow_size = picture.narrow_size or picture.size
    narrow, dark = f"(max-width: {NARROW_PIXELS}px)", "(prefers-color-scheme: dark)"
    variants = [
        _source(picture.render("svg", theme="dark", size=narrow_size), [narrow, dark], narrow_size),
        _source(picture.render("svg", size=narrow_size), [narrow], narrow_size),
        _source(picture.render("svg", theme="dark"), [dark], picture.size),
    ]
    width, height = (round(PIXELS_PER_INCH * inches) for inches in picture.size)
    return (
        f"<figure><h3>{_text(picture.title)}</h3><picture>{''.join(variants)}"
        f'<img src="{_data(picture.render("svg"))}" alt="{_text(picture.message)}"'
        f' width="{width}" height="{height}" style="max-width:{width * 1.25:.0f}px"></picture>'
        f"<figcaption>{_text(picture.message)}</figcaption></figure>"
    )


def _source(svg: bytes, media: Iterable[str], size: tuple[float, float]) -> str:
    width, height = (round(PIXELS_PER_INCH * inches) for inches in size)
    return (
        f'<source srcset="{_data(svg)}" media="{" and ".join(media)}" type="image/svg+xml"'
        f' width="{width}" height="{height}">'
    )


def _data(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _text(value: str) -> str:
    return html.escape(value, quote=True)
