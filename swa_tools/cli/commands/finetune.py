"""`swa-tools finetune`."""

from pathlib import Path
from typing import Any

import click

from swa_tools.cli.declared import options_of, sections_of, taken
from swa_tools.cli.run_config import read_config, read_resumed
from swa_tools.cli.sections import SectionedCommand
from swa_tools.training.options import FinetuneOptions, JobOptions

HEADINGS = ("Model", "Images", "Learning rate", "Optimizer", "Averages", "Speed")
"""The first headings of the help page, in the order of the work."""

_SECTIONS = sections_of(FinetuneOptions, JobOptions)


@click.command(
    cls=SectionedCommand,
    sections={heading: _SECTIONS[heading] for heading in (*HEADINGS, *_SECTIONS)},
    epilog="\b\nExamples:\n"
    "  swa-tools finetune torchvision/resnet50:IMAGENET1K_V1 --data imagenet -o run\n"
    "  swa-tools finetune timm/mobilenetv2_050 --data photos --new-head --epochs 20"
    " --lr-max 0.01 -o run\n"
    "  torchrun --nproc-per-node 8 -m swa_tools finetune … (the same options)\n"
    "  swa-tools finetune --resume run",
)
@options_of(FinetuneOptions, JobOptions, callbacks={"resume": read_resumed, "config": read_config})
def command(**given: Any) -> int:
    """Fine-tune a pretrained MODEL; save a capture at each minimum of the learning rate.

    MODEL is torchvision/NAME[:WEIGHTS], timm/NAME[.TAG], or timm's hf-hub:… or local-dir:….
    The defaults are the paper's recipe for ImageNet (section 4.2 and A.1): 10 cycles of one epoch
    from 0.001 to 0.00001.
    """
    job = taken(JobOptions, given)
    options = _options(job, given)
    if job.only_plan:
        from swa_tools.cli.run_tables import print_plan

        print_plan(options, job)
        return 0
    from swa_tools.cli.finetune_job import run_job

    return run_job(options, job)


def _options(job: JobOptions, given: dict[str, Any]) -> FinetuneOptions:
    """Build the run's options, and refuse those that do not go together."""
    output = given["output"]
    given["output"] = output or Path()
    options = taken(FinetuneOptions, given, resume=job.resume is not None)
    if job.then_average and options.swa_online:
        raise click.UsageError("--swa-online averages during the run: leave out --then-average.")
    if options.include_init and not (job.then_average or options.swa_online):
        raise click.UsageError("--include-init needs an average: --then-average or --swa-online.")
    if output is None and not job.only_plan:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if job.resume not in (None, output):
        raise click.UsageError("--resume RUN continues in RUN: leave out -o.")
    return options
