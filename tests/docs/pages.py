"""Reads the documentation: its pages, code blocks and links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = "<!-- runnable -->"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def runnable(path: Path) -> list[tuple[int, str]]:
    """(first line, code) of the Python blocks that are marked as runnable."""
    text = path.read_text()
    found = re.finditer(re.escape(RUNNABLE) + r"\n```python\n(.*?)```", text, re.S)
    return [(text[: m.start(1)].count("\n"), m.group(1)) for m in found]


def commands(path: Path) -> list[str]:
    """The `nearfar ...` lines of shell blocks, and those inside a sentence that have an option or a method."""
    text = path.read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    lines += [code for code in re.findall(r"`(nearfar [^`]+)`", prose) if "--" in code]
    return [line for line in lines if line.startswith("nearfar ")]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


def links(path: Path) -> list[str]:
    """Relative targets of links and images, outside code."""
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    found = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", prose)
    return [t for t in found if not re.match(r"[a-z]+:", t)]


def anchors(path: Path) -> set[str]:
    """The ids that headings get."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.S), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}
