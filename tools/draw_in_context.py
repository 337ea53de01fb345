"""Train the four models of the in-context-regression study and draw docs/images/in-context.svg.

    uv run tools/draw_in_context.py              trains (6 to 8 minutes on one thread), keeps in-context.json, draws
    uv run tools/draw_in_context.py --redraw     draws from in-context.json
    uv run tools/draw_in_context.py --check      exit code 1 if the figure or the table of docs/attention.md is stale

The table stands in docs/attention.md between `<!-- made: in-context -->` and `<!-- end: in-context -->`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from zoo_core.attention.papers.in_context import Regressor, Setting, ridge, risks, step_of_descent, train
from zoo_core.train.record import versions

ROOT = Path(__file__).resolve().parents[1]
RECORD, FIGURE = ROOT / "docs/images/in-context.json", ROOT / "docs/images/in-context.svg"
PAGE = ROOT / "docs/attention.md"
LENGTHS = (10, 20, 40, 80, 160, 320)
MODELS = {"1 softmax head": (1, None), "2 softmax heads": (2, None), "4 softmax heads": (4, None)}
MODELS |= {"1 linear head": (1, 40)}
COLOURS = ("#888888", "#0b6e4f", "#5fad56", "#c8553d")
WIDTH, HEIGHT = 860, 330


def study(steps: int) -> dict[str, Any]:
    """Train every model on 40 examples; return what they learnt and their risks at all lengths."""
    torch.set_num_threads(1)
    setting = Setting()
    rows: dict[str, Any] = {}
    predictors: dict[str, Any] = {}
    for name, (heads, linear) in MODELS.items():
        torch.manual_seed(0)
        model = Regressor(setting.d, heads, linear=linear)
        train(model, setting, steps=steps)
        omega = model.omega().detach()
        off = float((omega - torch.diag_embed(omega.diagonal(dim1=1, dim2=2))).abs().max())
        rows[name] = {
            "omega": omega.diagonal(dim1=1, dim2=2).mean(1).tolist(),
            "mu": model.mu().tolist(),
            "largest_off_diagonal": off,
            "maps": omega.tolist(),
        }
        predictors[name] = lambda p, m=model: m(p.examples, p.queries)
        print(name, rows[name]["omega"], rows[name]["mu"], file=sys.stderr)
    for length in LENGTHS:
        there = Setting(examples=length)
        steps_of_descent = {
            "best step": lambda p, s=there: step_of_descent(p, s.best_rate, centred=False),
            "best step, centred": lambda p, s=there: step_of_descent(p, s.best_rate, centred=True),
            "ridge": lambda p, s=there: ridge(p, s),
        }
        for name, risk in risks(predictors | steps_of_descent, there).items():
            rows.setdefault(name, {}).setdefault("risk", {})[str(length)] = risk
    return {"steps": steps, "seed": 0, "setting": "d 5, L 40, sigma 0.1", "versions": versions(), "models": rows}


def table(record: dict[str, Any]) -> str:
    """Return the Markdown table of the page."""
    lines = ["| model | risk, L = 40 | risk, L = 160 | omega | mu |", "|---|--:|--:|---|---|"]
    for name, row in record["models"].items():
        cells = [f"{row['risk'][length]:.4f}" for length in ("40", "160")]
        learnt = [", ".join(f"{x:+.3f}" for x in row.get(key, [])) for key in ("omega", "mu")]
        lines.append(f"| {' | '.join([name, *cells, *learnt])} |")
    return "\n".join(lines)


def figure(record: dict[str, Any]) -> str:
    """Return the figure: risks over lengths on the left, what the two heads learnt on the right."""
    body = [*curves(record), *maps(record["models"]["2 softmax heads"])]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def curves(record: dict[str, Any]) -> Iterator[str]:
    """Yield the left half: mean square error over the number of examples, both logarithmic."""
    left, right, upper, lower = 60, 400, 40, 270
    low, high = math.log10(0.01), math.log10(40)

    def across(length: float) -> float:
        return left + (right - left) * math.log(length / LENGTHS[0]) / math.log(LENGTHS[-1] / LENGTHS[0])

    def down(risk: float) -> float:
        return lower - (lower - upper) * (math.log10(risk) - low) / (high - low)

    yield f'<text x="{left}" y="22" font-weight="bold">risk, trained on 40 examples</text>'
    for risk in (0.01, 0.1, 1, 10):
        y = down(risk)
        yield f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>'
        yield f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{risk:g}</text>'
    for length in LENGTHS:
        yield f'<text x="{across(length):.1f}" y="{lower + 18}" text-anchor="middle">{length}</text>'
    yield f'<text x="{(left + right) / 2}" y="{lower + 36}" text-anchor="middle">examples in the context</text>'
    drawn = [*zip(MODELS, COLOURS, strict=True), ("best step, centred", "black")]
    for number, (name, colour) in enumerate(drawn):
        risks_of = record["models"][name]["risk"]
        points = " ".join(f"{across(n):.1f},{down(risks_of[str(n)]):.1f}" for n in LENGTHS)
        dashes = ' stroke-dasharray="2 4"' if colour == "black" else ""
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        y = upper + 14 + 16 * number
        ends = f'x1="{left + 150}" x2="{left + 174}" y1="{y}" y2="{y}"'
        yield f'<line {ends} stroke="{colour}" stroke-width="2"{dashes}/>'
        yield f'<text x="{left + 180}" y="{y + 4}">{name}</text>'


def maps(two: dict[str, Any]) -> Iterator[str]:
    """Yield the right half: W_Q W_K^T of both heads, and mu."""
    side, most = 26, max(abs(x) for head in two["maps"] for row in head for x in row)
    yield '<text x="470" y="22" font-weight="bold">what two heads learnt: W_Q W_K^T on x</text>'
    for head, rows in enumerate(two["maps"]):
        left = 470 + head * 190
        for i, row in enumerate(rows):
            for j, x in enumerate(row):
                fade = round(255 * (1 - abs(x) / most))
                colour = f"rgb({fade},{fade},255)" if x > 0 else f"rgb(255,{fade},{fade})"
                corner = f'x="{left + side * j}" y="{60 + side * i}"'
                yield f'<rect {corner} width="{side}" height="{side}" fill="{colour}"/>'
        yield f'<rect x="{left}" y="60" width="{5 * side}" height="{5 * side}" fill="none" stroke="#888888"/>'
        yield f'<text x="{left}" y="{60 + 5 * side + 20}">omega {two["omega"][head]:+.3f}</text>'
        yield f'<text x="{left}" y="{60 + 5 * side + 38}">mu {two["mu"][head]:+.3f}</text>'


def page(record: dict[str, Any]) -> str:
    """Return the page with its table made anew."""
    text = PAGE.read_text(encoding="utf-8")
    made = f"<!-- made: in-context -->\n{table(record)}\n<!-- end: in-context -->"
    return re.sub(r"<!-- made: in-context -->.*?<!-- end: in-context -->", lambda _: made, text, flags=re.DOTALL)


def main() -> int:
    """Run the study, or redraw what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redraw", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--steps", type=int, default=12_000)
    arguments = parser.parse_args()
    if not arguments.redraw and not arguments.check:
        RECORD.write_text(json.dumps(study(arguments.steps), indent=1) + "\n", encoding="utf-8")
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    made = {FIGURE: figure(record), PAGE: page(record)}
    if arguments.check:
        stale = [path.name for path, text in made.items() if path.read_text(encoding="utf-8") != text]
        print(*stale, sep="\n", end="\n" if stale else "")
        return bool(stale)
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
