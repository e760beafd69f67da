"""Tables as Markdown, CSV and LaTeX (the page's template renders them as HTML)."""

import csv
import re
from io import StringIO

from hded.report.tables.model import Cell, Part, Row, Table

CSV_HEADER = (
    "table", "part", "kind", "row", "detail", "group", "column", "value", "std", "seeds",
    "best", "text", "note",
)  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*_\[\]|<>#~])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"$<$", ">": r"$>$", "|": r"$|$", "±": r"$\pm$", "−": r"$-$", "–": "--", "×": r"$\times$",
    "δ": r"$\delta$", "σ": r"$\sigma$", "λ": r"$\lambda$", "µ": r"$\mu$", "∞": r"$\infty$",
    "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "·": r"$\cdot$", "₁": r"$_1$", "₂": r"$_2$", "₃": r"$_3$",
}  # fmt: skip


def to_markdown(table: Table) -> str:
    """Return the table as Markdown, with the protocols under every part and lettered notes."""
    lines = [f"# Table {table.number}: {_md(table.title)}", ""]
    for sentence in table.intro:
        lines += [_md(sentence), ""]
    for part in table.parts:
        lines += [f"## {_md(part.title)}", "", part_to_markdown(part)]
    return "\n".join(lines).rstrip() + "\n"


def part_to_markdown(part: Part) -> str:
    """Return one part as Markdown, without its title."""
    lines = []
    for warning in part.warnings:
        lines += [f"> **{_md(warning)}**", ""]
    lines += [*_md_rows(part), ""]
    lines += [f"- <sup>{mark}</sup> {_md(note)}" for note, mark in part.letters.items()]
    if part.statements:
        lines += [""] if part.letters else []
        lines += ["How it was measured:", ""]
        lines += [f"- **{_md(title)}**: {_md(text)}" for title, text in part.statements]
    return "\n".join([*lines, ""])


def _md_rows(part: Part) -> list[str]:
    letters = part.letters
    labels = [c.label for c in part.columns]
    # the group is printed where labels alone are ambiguous
    head = [f"{c.group}: {c.label}" if labels.count(c.label) > 1 else c.label for c in part.columns]
    rules = [":--", *("--:" if c.numeric else ":--" for c in part.columns)]
    lines = [_md_line([part.heading, *map(_md, head)]), _md_line(rules)]
    for row in part.rows:
        label = _md(row.named) + _md_marks(row, letters)
        if row.detail:
            label += f", {_md(row.detail)}"
        lines.append(_md_line([label, *(_md_cell(cell, letters) for cell in row.cells)]))
    return lines


def _md_cell(cell: Cell, letters: dict[str, str]) -> str:
    text = _md(cell.text)
    return (f"**{text}**" if cell.best else text) + _md_marks(cell, letters)


def _md_marks(item: Row | Cell, letters: dict[str, str]) -> str:
    marks = ",".join(letters[note] for note in item.notes)
    return f"<sup>{marks}</sup>" if marks else ""


def _md_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _md(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def to_csv(table: Table) -> str:
    """Return a line for each cell: values in full precision, published ones as the paper has them.

    `text` is the text that the other formats display; `note` gives the reason of a missing value.
    """
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for part in table.parts:
        for row in part.rows:
            for column, cell in zip(part.columns, row.cells, strict=True):
                writer.writerow(
                    [
                        table.number, part.title, row.kind, row.label, row.detail, column.group,
                        column.key, cell.value, cell.std, cell.seeds or "",
                        "best" if cell.best else "", cell.text,
                        "; ".join(dict.fromkeys((*row.notes, *cell.notes))),
                    ]
                )  # fmt: skip
    return buffer.getvalue()


def to_latex(table: Table) -> str:
    """Return a `table*` environment for each part; needs booktabs and threeparttable."""
    lines = [
        f"% Table {table.number}: {table.title}".replace("\n", " "),
        r"% \usepackage{booktabs,threeparttable}",
        "",
    ]
    for part in table.parts:
        caption = [f"{table.title}. {part.title}.", *part.warnings]
        lines += [
            r"\begin{table*}",
            r"\centering",
            r"\begin{threeparttable}",
            rf"\caption{{{_tex(' '.join(caption))}}}",
            r"\scriptsize\setlength{\tabcolsep}{2.5pt}",
            *_tex_rows(part),
            r"\begin{tablenotes}\scriptsize",
            *(rf"\item[{mark}] {_tex(note)}" for note, mark in part.letters.items()),
            *(rf"\item[] {_tex(row.label)}: {_tex(row.detail)}" for row in part.rows if row.detail),
            *(rf"\item[] \textit{{{_tex(t)}}}: {_tex(text)}" for t, text in part.statements),
            *(rf"\item[] {_tex(sentence)}" for sentence in table.intro if not part.further),
            r"\end{tablenotes}",
            r"\end{threeparttable}",
            r"\end{table*}",
            "",
        ]
    return "\n".join(lines)


def _tex_rows(part: Part) -> list[str]:
    letters = part.letters
    align = "l" + "".join("r" if c.numeric else "l" for c in part.columns)
    lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
    if any(c.group for c in part.columns):
        heads, rules, start = [""], [], 2
        for group, span in part.groups:
            heads.append(rf"\multicolumn{{{span}}}{{c}}{{{_tex(group)}}}")
            if group:
                rules.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
        lines += [_tex_line(heads), "".join(rules)]
    lines.append(_tex_line(["", *(_tex_head(c.label) for c in part.columns)]))
    for _, rows in part.bodies:
        lines.append(r"\midrule")
        for row in rows:
            label = _tex(row.named) + _tex_marks(row, letters)
            lines.append(_tex_line([label, *(_tex_cell(cell, letters) for cell in row.cells)]))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _tex_head(label: str) -> str:
    """Return a heading with its words stacked: eleven columns have to fit on a page."""
    words = label.replace(" ↑", "\u00a0↑").replace(" ↓", "\u00a0↓").split(" ")
    # {} after the line break, because LaTeX would read a following bracket as a length
    lines = r"\\{}".join(_tex(word) for word in words)
    return rf"\shortstack[r]{{{lines}}}"


def _tex_cell(cell: Cell, letters: dict[str, str]) -> str:
    mean, _, spread = cell.text.partition(" ± ")
    text = rf"\textbf{{{_tex(mean)}}}" if cell.best else _tex(mean)
    if spread:
        text = rf"\shortstack[r]{{{text}\\{{}}{{\tiny$\pm$\,{_tex(spread)}}}}}"
    return text + _tex_marks(cell, letters)


def _tex_marks(item: Row | Cell, letters: dict[str, str]) -> str:
    marks = ",".join(letters[note] for note in item.notes)
    return rf"\tnote{{{marks}}}" if marks else ""


def _tex_line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
