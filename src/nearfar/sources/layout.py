"""What the folders of a data set say: splits, classes, and which files belong to neither.

train/cat/1.png  test/dog/2.png          split and class
images/train2017/1.jpg                   split; one folder above all changes nothing
cat/1.png  dog/2.png                     class
bottle/train/1.png  cable/test/2.png     class above the split
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nearfar.sources.files import left_out, shown
from nearfar.sources.splits import standard_name, unlabelled

Folders = tuple[str, ...]


@dataclass
class Layout:
    """`kept`: which of the files are rows, in their order; `columns`: "split" and "label" of those; `notes`: what was
    left out or has no class, and why."""

    kept: list[int]
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def layout(files: Sequence[str]) -> Layout:
    """Reads splits and classes from the folders of relative paths."""
    folders = [Path(f).parts[:-1] for f in files]
    level = split_level(folders)
    found = Layout(list(range(len(files))))
    if level is None:
        _label(found, files, _without_shared(folders))
        return found
    names = sorted({f[level] for f in folders if _split_at(f, level)})
    found.kept = [i for i, f in enumerate(folders) if _split_at(f, level)]
    outside = [files[i] for i, f in enumerate(folders) if not _split_at(f, level)]
    if outside:
        found.notes.append(left_out(outside, f"files outside of the folders {', '.join(map(shown, names))}"))
    inner = [folders[i][level:] for i in found.kept]
    found.columns["split"] = [standard_name(f[0]) for f in inner]
    below = _below(inner)
    above = [folders[i][:level] for i in found.kept]
    if not any(below) and len(set(above)) > 1:  # cat/train/1.png: the class stands above
        below = _without_shared(above)
    below = [() if unlabelled(f[0]) else b for f, b in zip(inner, below, strict=True)]
    _label(found, files, _measured(found, files, below))
    return found


def _split_at(folders: Folders, level: int) -> bool:
    return len(folders) > level and standard_name(folders[level]) is not None


def split_level(folders: Sequence[Folders]) -> int | None:
    """The depth at which most files lie in two or more folders that are called as splits are; None without one."""
    for level in range(max(map(len, folders), default=0)):
        named = [f[level] for f in folders if _split_at(f, level)]
        if len(set(named)) > 1 and 2 * len(named) >= len(folders):
            return level
    return None


def _without_shared(folders: Sequence[Folders]) -> list[Folders]:
    """The folders below those that all files lie in; the last one stays, as the only class that there is."""
    folders = list(folders)
    while folders and all(len(f) > 1 for f in folders) and len({f[0] for f in folders}) == 1:
        folders = [f[1:] for f in folders]
    return folders


def _below(inner: Sequence[Folders]) -> list[Folders]:
    """The folders below those of the splits, without one that holds all of each split (seg_train/seg_train/cat)."""
    below = [f[1:] for f in inner]
    while below and all(len(b) > 1 for b in below):
        if len({(f[0], b[0]) for f, b in zip(inner, below, strict=True)}) > len({f[0] for f in inner}):
            break
        below = [b[1:] for b in below]
    return below


def _label(found: Layout, files: Sequence[str], folders: Sequence[Folders]) -> None:
    """The column of classes: the first of the folders. Files that lie above the class folders have none."""
    labels = [None if not f or unlabelled(f[0]) else f[0] for f in folders]
    classes = sorted({name for name in labels if name is not None})
    without = [files[i] for i, name in zip(found.kept, labels, strict=True) if name is None]
    if not classes:
        return
    if len(classes) == 1:
        one = "all files lie in one folder" if not without else "there is one folder below"
        found.notes.append(f"{one} ('{shown(classes[0])}'): one class only, so there are no labels")
        return
    if 2 * len(without) > len(labels) and "split" not in found.columns:
        some = ", ".join(map(shown, classes[:3]))
        found.notes.append(f"most files lie above the folders {some}...: these are not taken for classes")
        return
    if without:
        some = ", ".join(shown(f) for f in without[:3]) + (", ..." if len(without) > 3 else "")
        found.notes.append(
            f"{len(without)} files lie in no class folder: they are trained on, without a label ({some})"
        )
    found.columns["label"] = labels


def _measured(found: Layout, files: Sequence[str], below: list[Folders]) -> list[Folders]:
    """Leaves out a split for measuring in which no file lies in a class folder, where training files do; the folders of
    the files that are left."""
    for name in ("val", "test"):
        splits = found.columns["split"]
        bare = [i for i, split in enumerate(splits) if split == name]
        if any(below) and bare and not any(below[i] for i in bare):
            found.notes.append(
                left_out([files[found.kept[i]] for i in bare], f"files of '{name}', where nothing has a class,")
            )
            rest = [i for i, split in enumerate(splits) if split != name]
            found.kept, below = [found.kept[i] for i in rest], [below[i] for i in rest]
            found.columns["split"] = [splits[i] for i in rest]
    return below
