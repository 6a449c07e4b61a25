"""Small plots as SVG, drawn on the server: no script, no style of their own."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from cloudq.dashboard.words import DASH, number, shown


def sparkline(
    values: Sequence[float], label: str, *, kind: str = "", width: int = 160, height: int = 36
) -> Markup:
    """Draw values over time as a line with the area below it."""
    if not values:
        return DASH
    most = max(*values, 1e-9) if len(values) > 1 else max(values[0], 1e-9)
    step = width / max(1, len(values) - 1)
    points = [
        (place * step, height - 3 - (height - 6) * max(0.0, value) / most)
        for place, value in enumerate(values)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"0,{height} {line} {points[-1][0]:.1f},{height}"
    told = shown(f"{label}: {number(values[-1])} now, {number(max(values))} at most")
    return Markup(
        '<svg class="plot line {kind}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        'preserveAspectRatio="none" role="img" '
        'aria-label="{told}"><title>{told}</title><polygon class="area" points="{area}"/>'
        '<polyline class="stroke" points="{line}"/></svg>'
    ).format(kind=kind, w=width, h=height, told=told, area=area, line=line)


def bars(
    values: Sequence[float], label: str, *, kind: str = "", width: int = 160, height: int = 36
) -> Markup:
    """Draw counts over time as bars; the newest is on the right."""
    if not values:
        return DASH
    most = max(max(values), 1e-9)
    slot = width / len(values)
    parts: list[Markup] = []
    for place, value in enumerate(values):
        tall = 0.0 if value <= 0 else max(2.0, (height - 2) * value / most)
        parts.append(
            Markup('<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="1"/>').format(
                x=f"{place * slot:.2f}",
                y=f"{height - tall:.2f}",
                w=f"{max(1.0, slot - 1):.2f}",
                h=f"{tall:.2f}",
            )
        )
    told = shown(f"{label}: {number(sum(values))} in all, {number(max(values))} at most at a time")
    return Markup(
        '<svg class="plot bars {kind}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="{told}"><title>{told}</title>{parts}</svg>'
    ).format(kind=kind, w=width, h=height, told=told, parts=Markup("").join(parts))


def meter(value: float, most: float, label: str, *, width: int = 90, height: int = 8) -> Markup:
    """Draw a share as a filled bar."""
    share = 0.0 if most <= 0 else min(1.0, max(0.0, value / most))
    level = "full" if share >= 0.9 else "high" if share >= 0.7 else ""
    return Markup(
        '<svg class="plot meter {level}" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="{label}"><title>{label}</title><rect class="back" width="{w}" height="{h}" '
        'rx="4"/><rect class="fill" width="{fill}" height="{h}" rx="4"/></svg>'
    ).format(level=level, w=width, h=height, label=shown(label), fill=f"{width * share:.1f}")
