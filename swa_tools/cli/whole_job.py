"""`average --data` and `finetune --then-average`: average, recompute BatchNorm, evaluate."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swa_tools.cli.computing import computing
from swa_tools.cli.output import notice, print_json, print_table, progress
from swa_tools.cli.passes import open_split, take_bn_options, take_evaluation_options
from swa_tools.cli.results import check_results, common_run, recording

if TYPE_CHECKING:
    from swa_tools.averaging import AverageOptions, Weighting
    from swa_tools.distributed import Distributed
    from swa_tools.records import Record
    from swa_tools.selection import ScoredAverage


def average_recompute_evaluate(
    paths: Sequence[Path],
    output: Path,
    given: dict[str, Any],
    *,
    options: "AverageOptions",
    results: Path | None,
    command_line: str,
    as_json: bool,
    weighting: "Weighting | None" = None,
    include_init: bool = False,
) -> None:
    """Do the whole job over checkpoints, record the scores and print them.

    Args:
        paths: The checkpoints.
        output: Safetensors file to write.
        given: Parameters of `data_options`, `bn_options`, `pass_options`, `model_options`, `seed`.
        options: How to average.
        results: Where the record goes; None: to the run that all checkpoints come from, if any.
        command_line: How to obtain the scores again.
        as_json: Whether to print one JSON document.
        weighting: As in `average_checkpoints`.
        include_init: The same.
    """
    from swa_tools.selection import average_and_score

    check_results(results)
    with computing(given["device"]) as context:
        train, val = open_split("train", given), open_split("val", given)
        evaluation = take_evaluation_options(given, device=context.device)
        scored = average_and_score(
            paths,
            output,
            train=train,
            val=val,
            weighting=weighting,
            include_init=include_init,
            average=options,
            bn=take_bn_options(given, device=context.device),
            evaluation=evaluation,
            context=context,
            watch=functools.partial(rank_progress, context),
        )
    if not context.is_main:
        return
    for line in (*scored.recomputation.reports[0].notices(), *scored.scores.notices):
        notice(line)
    n_skipped = scored.recomputation.n_skipped + scored.scores.n_skipped
    if n_skipped:
        notice(f"{n_skipped} images could not be read and were left out")
    records = scored.scores.records(split="val", command=command_line)
    with recording(records, results, paths=paths):
        _print(scored, records, run=common_run(paths), as_json=as_json)


@contextlib.contextmanager
def rank_progress(
    context: "Distributed", stage: str, n_images: int
) -> Iterator[Callable[[int], None]]:
    """Show on rank 0 how far its share of the images is; the other ranks say nothing."""
    if not context.is_main:
        yield lambda _: None
        return
    with progress(stage, n_images // context.world_size, unit="images") as advance:
        yield advance


def _print(
    scored: "ScoredAverage", records: "Sequence[Record]", *, run: Path | None, as_json: bool
) -> None:
    checkpoint = scored.scores.checkpoints[0]
    if as_json:
        print_json(
            {
                "path": str(checkpoint.path),
                "digest": checkpoint.digest,
                "bn": dataclasses.asdict(scored.recomputation.bn),
                "n_sources": len(scored.average.metadata.average.sources)
                if scored.average and scored.average.metadata.average
                else 0,
                **dataclasses.asdict(checkpoint.score),
            }
        )
        return
    earlier = _validations(run) if run is not None else []
    rows = [
        [
            record.checkpoint or "",
            "" if record.epoch is None else f"{record.epoch:g}",
            f"{record.top1:.2f}",
            "" if record.top5 is None else f"{record.top5:.2f}",
            f"{record.nll:.4f}",
        ]
        for record in [*earlier, *records]
    ]
    caption = f"{checkpoint.score.n_samples:,} images of val"
    if earlier:
        caption += "; start and minima as the run scored them"
    print_table(["checkpoint", "epoch", "top-1 %", "top-5 %", "nll"], rows, caption=caption)


def _validations(run: Path) -> "list[Record]":
    """Return what a run scored itself: its start and its minima, on validation images."""
    from swa_tools.records import read_records

    if not (run / "metrics.jsonl").exists():
        return []
    return [
        record
        for record in read_records(run / "metrics.jsonl")
        if record.event == "evaluation"
        and record.checkpoint
        and record.kind in ("start", "checkpoint")
        and record.top1 is not None
    ]
