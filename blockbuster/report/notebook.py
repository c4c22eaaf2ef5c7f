"""What a notebook shows of the seams."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence

from blockbuster.report.picture import draw_crop, encode_png, read_crops
from blockbuster.report.seams import LEAST_DOUBTFUL, MOST_DOUBTFUL, SeamReport

__all__ = ["draw_histogram", "html_table", "seams_as_html"]

# In pixels. Text takes the colour of the page, so that it can be read in light and dark themes.
WIDTH, HEIGHT, SIDE, TOP, BOTTOM, FONT_SIZE = 680, 220, 20, 44, 34, 11
LEAST_BAR = 2
REFUSED, JOINED = "#c8741f", "#3b82c4"


def seams_as_html(seams: SeamReport, labels_path: str) -> str:
    """Show seams as a table, a histogram of agreement and pictures of the worst ones.

    Parameters
    ----------
    seams : SeamReport
        What the seams came to.
    labels_path : str
        Folder of the label array; empty where there is none, and no pictures then.
    """
    table = html_table(seams.table()) if seams.axes else ""
    notes = [seams.rule, seams.sizes] if seams.axes else [str(seams)]
    warning = f"<p><strong>{html.escape(seams.runaway)}</strong></p>" if seams.runaway else ""
    paragraph = f"<p>{'<br/>'.join(map(html.escape, notes))}</p>"
    return f"{paragraph}{warning}{table}{draw_histogram(seams)}{_pictures(seams, labels_path)}"


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of words, the first one of headings, as a table."""
    head, *body = ("".join(_cell(word, number) for number, word in enumerate(row)) for row in rows)
    head = head.replace("<td", "<th").replace("</td", "</th")
    body = [f"<tr>{row}</tr>" for row in body]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _cell(word: str, number: int) -> str:
    side = "right" if number else "left"
    return f"<td style='text-align:{side}'>{html.escape(word)}</td>"


def _pictures(seams: SeamReport, labels_path: str) -> str:
    figures = []
    for crop in read_crops(seams, labels_path):
        pixels = draw_crop(crop)
        data = base64.b64encode(encode_png(pixels)).decode()
        caption = html.escape(crop.caption)
        figures.append(
            f"<figure style='margin:0;max-width:{pixels.shape[1]}px'>"
            f"<img src='data:image/png;base64,{data}' width='{pixels.shape[1]}' height='{pixels.shape[0]}' "
            f"alt='{caption}' style='image-rendering:pixelated;max-width:100%'/>"
            f"<figcaption style='font-size:smaller'>{caption}</figcaption></figure>"
        )
    if not figures:
        return ""
    return f"<div style='display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start'>{''.join(figures)}</div>"


def draw_histogram(seams: SeamReport) -> str:
    """Draw the agreement of all pairs as a bar chart in SVG, with the threshold.

    Parameters
    ----------
    seams : SeamReport
        What the seams came to.

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
    marks = [_doubtful(), *_bars(counts, threshold), *_scale(), *_threshold(threshold)]
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
        f"height='{HEIGHT}' style='max-width:100%;height:auto' role='img' "
        f"fill='currentColor' font-family='sans-serif' font-size='{FONT_SIZE}'>"
        f"<title>pairs of labels by agreement</title>{''.join(marks)}</svg>"
    )


def _x(agreement: float) -> float:
    return SIDE + (WIDTH - 2 * SIDE) * agreement


def _doubtful() -> str:
    left, right = _x(LEAST_DOUBTFUL), _x(MOST_DOUBTFUL)
    height = HEIGHT - BOTTOM - TOP
    place = f"x='{left:.2f}' y='{TOP}' width='{right - left:.2f}' height='{height}'"
    return f"<rect class='doubtful' {place} opacity='0.1'/>"


def _bars(counts: Sequence[int], threshold: float) -> Iterator[str]:
    """Draw a bar per bin with its count; one that the threshold cuts has two colours."""
    floor = HEIGHT - BOTTOM
    for number, count in enumerate(counts):
        low, high = number / len(counts), (number + 1) / len(counts)
        if not count:
            continue
        height = max(LEAST_BAR, (floor - TOP) * count / max(counts))
        parts = ((low, min(high, threshold), REFUSED), (max(low, threshold), high, JOINED))
        yield f"<g><title>agreement {low:.2f} to {high:.2f}: {count}</title>"
        for start, stop, colour in parts:
            if start < stop:
                yield (
                    f"<rect x='{_x(start):.2f}' y='{floor - height:.2f}' width='{_x(stop) - _x(start):.2f}' "
                    f"height='{height:.2f}' fill='{colour}'/>"
                )
        yield f"{_text(_x((low + high) / 2), floor - height - 4, _short(count))}</g>"


def _scale() -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    yield f"<line x1='{SIDE}' x2='{WIDTH - SIDE}' y1='{floor}' y2='{floor}' stroke='currentColor'/>"
    for number in range(6):
        yield _text(_x(number / 5), floor + 14, f"{number / 5:g}")
    yield _text(
        WIDTH / 2,
        HEIGHT - 6,
        "agreement of the two tiles, and how many pairs of labels have it; shaded: doubtful",
    )


def _threshold(threshold: float) -> Iterator[str]:
    x = _x(threshold)
    yield (
        f"<line class='threshold' x1='{x:.2f}' x2='{x:.2f}' y1='18' y2='{HEIGHT - BOTTOM}' stroke='currentColor' "
        "stroke-dasharray='4 3'/>"
    )
    # The words stay inside the picture.
    middle = min(max(x, 120), WIDTH - 120)
    yield _text(middle, 12, f"refused \u2190 min_agreement {threshold:g} \u2192 joined")


def _text(x: float, y: float, words: str) -> str:
    return f"<text x='{x:.2f}' y='{y:.2f}' text-anchor='middle'>{words}</text>"


def _short(count: int) -> str:
    """Write a count so that it fits over a bar."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * unit:
            return f"{count // unit}{name}"
    return str(count)
