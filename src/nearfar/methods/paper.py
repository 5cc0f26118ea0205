"""Where a method comes from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """Where a method comes from. `differs`: where this implementation or the released code departs from the paper."""

    title: str
    venue: str
    idea: str
    arxiv: str = ""
    differs: str = ""

    @property
    def link(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""
