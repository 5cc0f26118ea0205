"""Runs the checks of claims; finished runs are read, so that it may be cut off and started again.

    python benchmarks/claims --all                    # every check; hours on two cores
    python benchmarks/claims dcl swav [--seeds 1]     # some of them
    python benchmarks/claims --all --tiny             # the first cell of each, a few steps on a few rows, for crashes
    python benchmarks/claims --list                   # what there is, and how long each took

Writes benchmarks/claims/results/SLUG.json; scripts/build_docs.py makes docs/claims.md of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import experiment  # noqa: E402
import torch  # noqa: E402

NOT_CHECKS = ("__main__", "experiment", "sets", "shared")


def slugs() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if p.stem not in NOT_CHECKS)


def module(slug: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(slug.replace("-", "_"), HERE / f"{slug}.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"There is no check '{slug}'. Known: {', '.join(slugs())}.")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def taken(slug: str) -> str:
    path = experiment.RESULTS / f"{slug}.json"
    return f"{json.loads(path.read_text())['seconds']:.0f} s of training" if path.exists() else "not measured"


def check(slug: str, plan: experiment.Plan) -> float:
    """Runs one check; the seconds that it took now."""
    began, one = time.perf_counter(), module(slug)
    result = one.run(plan) if hasattr(one, "run") else experiment.run(one.CLAIM, plan)
    experiment.store(result, plan.out / "results" if plan.tiny else experiment.RESULTS)
    if hasattr(one, "figure") and not plan.tiny:
        one.figure(plan.out, result)
    print(f"{slug}: {result['difference']}, holds {result['holds']}\n{result['notes']}", flush=True)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slugs", nargs="*", help="which checks")
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--list", action="store_true", help="what there is")
    parser.add_argument("--seeds", type=int, help="how many seeds, in place of each check's own number")
    parser.add_argument("--tiny", action="store_true", help="one seed, four steps, few rows; results go to --out")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    given = parser.parse_args()
    if given.list or not (given.slugs or given.all):
        print("\n".join(f"{slug:24}{taken(slug)}" for slug in slugs()))
        return 0
    unknown = set(given.slugs) - set(slugs())
    if unknown:
        parser.error(f"there is no check {', '.join(sorted(unknown))}; known: {', '.join(slugs())}")
    torch.set_num_threads(1)
    plan = experiment.Plan(given.out, 1 if given.tiny else given.seeds, given.tiny)
    failed = []
    for slug in slugs() if given.all else given.slugs:
        try:
            print(f"{slug}: {check(slug, plan):.0f} s", flush=True)
        except Exception as error:
            if not given.all:
                raise
            failed.append(slug)
            print(f"{slug} FAILED: {error}", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
