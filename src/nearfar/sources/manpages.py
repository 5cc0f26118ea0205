"""Manual pages: roff source to plain text, and the NAME line apart from the rest."""

import re

_PAGE = re.compile(r".+\.([1-8])[a-z]*(\.gz)?$")
_GLYPHS = {
    "aq": "'", "dq": '"', "cq": "'", "oq": "'", "lq": '"', "rq": '"', "bu": "-", "em": "-", "en": "-", "hy": "-",
    "co": "(c)", "rg": "(r)", "tm": "(tm)", "ti": "~", "ha": "^", "rs": "\\", "ga": "`", "pl": "+", "mi": "-", "mu":
    "x", "->": "->", "<-": "<-", "<=": "<=", ">=": ">=", "!=": "!=", "+-": "+-", "Tm": "(TM)", "R": "(R)",
}  # fmt: skip
_ALTERNATING = {"BR", "RB", "BI", "IB", "IR", "RI"}
_SILENT = {
    "TH", "IX", "tm", "rr", "Dd", "Dt", "Os", "de", "ds", "nr", "if", "ie", "el", "so", "ig", "ft", "ad", "hy", "ne",
    "ps", "ta", "tr", "UR", "UE", "in", "ti", "na", "fi", "nf", "RS", "RE", "EX", "EE", "PD", "HP", "TQ", "sp", "br",
    "Bl", "El", "Bd", "Ed", "Bk", "Ek", "nh", "ll", "fam", "mso", "rm", "am", "als", "cs", "bp", "ce", "fl", "lf",
    "SY", "YS", "TS", "TE", "\\}", "rn", "ev", "shift",
}  # fmt: skip
_HEADINGS = {"SH", "SS", "Sh", "Ss"}
_BREAKS = {"PP", "P", "LP", "TP", "IP", "Pp", "It"}


def section(filename: str) -> str | None:
    """ "1" to "8" for a manual page's file name, else None."""
    match = _PAGE.match(filename)
    return match.group(1) if match else None


def plain_text(source: str) -> str:
    """Roff (man and mdoc macros) as readable text, one paragraph a line."""
    out: list[str] = []
    skipping = ""  # the line that ends a definition or a table
    for line in source.splitlines():
        if skipping:
            skipping = "" if line.strip() == skipping else skipping
        elif re.match(r"^[.']\s*(de|am|ig)\b", line):
            skipping = ".."
        elif re.match(r"^\.\s*TS\b", line):
            skipping = ".TE"
        elif line[:1] in (".", "'"):
            _request(line[1:].strip(), out)
        else:
            out.append(_escapes(line) if line.strip() else "\n")
    text = " ".join(out)
    return re.sub(r"[ \t]*\n[\s]*", "\n", re.sub(r"[ \t]+", " ", text)).strip()


def _request(line: str, out: list[str]) -> None:
    if line.startswith('\\"') or not line:
        return
    name, _, rest = line.partition(" ")
    if name in _SILENT:
        return
    words = [_escapes(a or b) for a, b in re.findall(r'"((?:[^"]|"")*)"|(\S+)', _uncommented(rest))]
    if name in _HEADINGS:
        out.append("\n" + " ".join(words) + "\n")
    elif name in _BREAKS:
        out.append("\n" + (" ".join(words) if name in ("IP", "It") else ""))
    elif name == "Nd":
        out.append("- " + " ".join(words))
    elif name == "Fl":
        out.append(" ".join("-" + w for w in words))
    else:
        out.append(("" if name in _ALTERNATING else " ").join(words))


def _uncommented(text: str) -> str:
    return text.split('\\"')[0]


def _escapes(text: str) -> str:
    text = _uncommented(text)
    text = re.sub(r"\\f(\[[^\]]*\]|\(..|.)", "", text)
    text = re.sub(r"\\s([-+]?\d+|\[[^\]]*\])", "", text)
    text = re.sub(r"\\\*?\((..)|\\\*?\[([^\]]*)\]", lambda m: _GLYPHS.get(m.group(1) or m.group(2), ""), text)
    text = re.sub(r"\\[nmMFgkVY](\[[^\]]*\]|\(..|.)|\\[hvwlLDox]'[^']*'", "", text)
    text = text.replace("\\e", "\0").replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ")
    return re.sub(r"\\(.?)", lambda m: m.group(1) if m.group(1) in "'`.-" else "", text).replace("\0", "\\")


def name_and_body(text: str) -> tuple[str, str] | None:
    """("ls - list directory contents", everything but the NAME section), or None where a page has no such line."""
    match = re.search(r"(?:^|\n)NAME\n(.*?)(?:\n(?=[A-Z][A-Z ,/()-]{2,}(?:\n|$))|$)", text, re.DOTALL)
    if not match:
        return None
    line = " ".join(match.group(1).split())
    body = (text[: match.start()] + "\n" + text[match.end() :]).strip()
    return (line, body) if re.search(r"\S\s+[-–—]+\s+\S", line) and body else None
