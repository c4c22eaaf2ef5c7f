"""The view of a run's report in a notebook."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from blockbuster.report.picture import GridOf, LabelCrop, encode_png, read_crops, read_thumbnail
from blockbuster.report.seams import MAX_DOUBTFUL, MIN_DOUBTFUL, SeamReport

if TYPE_CHECKING:
    from blockbuster.report.run import RunReport

# Of everything; what frames the parts is less than a thousand.
MAX_LETTERS = 95_000
ASIDE = "display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start"

# In pixels. Text takes the colour of the page, so that it can be read in light and dark themes.
WIDTH, HEIGHT, SIDE, TOP, BOTTOM, FONT_SIZE = 680, 220, 20, 44, 34, 11
MIN_BAR = 2
REFUSED, JOINED = "#c8741f", "#3b82c4"
SCALE = "agreement of the two tiles, and how many pairs of labels have it; shaded: doubtful"


def report_as_html(
    rows: Sequence[tuple[str, str]],
    more: Sequence[tuple[str, str]],
    seams: SeamReport,
    labels_path: str,
    grid_of: GridOf,
) -> str:
    """Show a report as a small table and a small picture; seams and settings unfold.

    Parameters
    ----------
    rows, more : sequence of (str, str)
        Names and words: those that are shown, and those that unfold.
    seams : SeamReport
        Result of the seams.
    labels_path : str
        Folder of the label array; empty where there is none, and no pictures then.
    grid_of : callable
        As in `read_thumbnail`.

    Notes
    -----
    Less than 100 kB, whatever the labels are: pictures that would make it more are left out.
    """
    warning = f"<p><strong>{html.escape(seams.runaway)}</strong></p>" if seams.runaway else ""
    found = read_thumbnail(labels_path, seams, grid_of)
    thumbnail = "" if found is None else _figure(found)
    shown = f"<div style='{ASIDE}'>{_table_of_names(rows)}{thumbnail}</div>{warning}"
    settings = _unfolding("settings and versions", _table_of_names(more)) if more else ""
    used = len(shown) + len(settings)
    return f"{shown}{_unfolding('seams', seams_as_html(seams, labels_path, MAX_LETTERS - used))}{settings}"


def results_as_html(results: Mapping[str, RunReport]) -> str:
    """Show the reports of several results of fn below each other."""
    return "".join(f"<h4>{html.escape(name)}</h4>{report._repr_html_()}" for name, report in results.items())


def _unfolding(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _table_of_names(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
        for name, text in rows
    )
    return f"<table>{cells}</table>"


def seams_as_html(seams: SeamReport, labels_path: str, most_letters: int) -> str:
    """Show seams as a table, a histogram and as many pictures of the worst as there is room for."""
    table = html_table(seams.table()) if seams.axes else ""
    notes = [seams.rule, *seams.notes] if seams.axes else [str(seams)]
    text = f"<p>{'<br/>'.join(map(html.escape, notes))}</p>{table}{draw_histogram(seams)}"
    figures = ""
    for crop in read_crops(seams, labels_path):
        figure = _figure(crop)
        if len(text) + len(figures) + len(figure) > most_letters:
            break
        figures += figure
    return f"{text}<div style='{ASIDE}'>{figures}</div>" if figures else text


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of words, the first one of headings, as a table."""
    head, *body = (
        "".join(
            f"<td style='text-align:{'right' if number else 'left'}'>{html.escape(word)}</td>"
            for number, word in enumerate(row)
        )
        for row in rows
    )
    head = head.replace("<td", "<th").replace("</td", "</th")
    body = [f"<tr>{row}</tr>" for row in body]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _figure(crop: LabelCrop) -> str:
    pixels = crop.draw()
    height, width, _ = pixels.shape
    data = base64.b64encode(encode_png(pixels)).decode()
    caption = html.escape(crop.caption)
    return (
        f"<figure style='margin:0;max-width:{width}px'>"
        f"<img src='data:image/png;base64,{data}' width='{width}' height='{height}' "
        f"alt='{caption}' style='image-rendering:pixelated;max-width:100%'/>"
        f"<figcaption style='font-size:smaller'>{caption}</figcaption></figure>"
    )


def draw_histogram(seams: SeamReport) -> str:
    """Draw the agreement of all pairs as a bar chart in SVG, with the threshold.

    Parameters
    ----------
    seams : SeamReport
        Result of the seams.

    Returns
    -------
    str
        Empty where agreement was not measured.

    Examples
    --------
    >>> draw_histogram(SeamReport())
    ''
    """
    counts = seams.histogram
    if not any(counts):
        return ""
    threshold = seams.min_agreement or 0.0
    left, right = _x(MIN_DOUBTFUL), _x(MAX_DOUBTFUL)
    place = f"x='{left:.2f}' y='{TOP}' width='{right - left:.2f}' height='{HEIGHT - BOTTOM - TOP}'"
    floor, x = HEIGHT - BOTTOM, _x(threshold)
    marks = [
        f"<rect class='doubtful' {place} opacity='0.1'/>",
        *_bars(counts, threshold),
        f"<line x1='{SIDE}' x2='{WIDTH - SIDE}' y1='{floor}' y2='{floor}' stroke='currentColor'/>",
        *(_text(_x(number / 5), floor + 14, f"{number / 5:g}") for number in range(6)),
        _text(WIDTH / 2, HEIGHT - 6, SCALE),
        f"<line class='threshold' x1='{x:.2f}' x2='{x:.2f}' y1='18' y2='{floor}' stroke='currentColor' "
        "stroke-dasharray='4 3'/>",
        # The words stay inside the picture.
        _text(min(max(x, 120), WIDTH - 120), 12, f"refused \u2190 min_agreement {threshold:g} \u2192 joined"),
    ]
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
        f"height='{HEIGHT}' style='max-width:100%;height:auto' role='img' "
        f"fill='currentColor' font-family='sans-serif' font-size='{FONT_SIZE}'>"
        f"<title>pairs of labels by agreement</title>{''.join(marks)}</svg>"
    )


def _x(agreement: float) -> float:
    return SIDE + (WIDTH - 2 * SIDE) * agreement


def _bars(counts: Sequence[int], threshold: float) -> Iterator[str]:
    """Draw a bar per bin with its count; one that the threshold cuts has two colours."""
    floor = HEIGHT - BOTTOM
    for number, count in enumerate(counts):
        low, high = number / len(counts), (number + 1) / len(counts)
        if not count:
            continue
        height = max(MIN_BAR, (floor - TOP) * count / max(counts))
        parts = ((low, min(high, threshold), REFUSED), (max(low, threshold), high, JOINED))
        yield f"<g><title>agreement {low:.2f} to {high:.2f}: {count}</title>"
        for start, stop, colour in parts:
            if start < stop:
                yield (
                    f"<rect x='{_x(start):.2f}' y='{floor - height:.2f}' width='{_x(stop) - _x(start):.2f}' "
                    f"height='{height:.2f}' fill='{colour}'/>"
                )
        yield f"{_text(_x((low + high) / 2), floor - height - 4, _short(count))}</g>"


def _text(x: float, y: float, words: str) -> str:
    return f"<text x='{x:.2f}' y='{y:.2f}' text-anchor='middle'>{words}</text>"


def _short(count: int) -> str:
    """Write a count so that it fits over a bar."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * unit:
            return f"{count // unit}{name}"
    return str(count)
