"""Turns files into what training reads: a trained tokenizer, or shuffled tokens and a held-out set.

`attempt` calls `run` for both kinds of prepare task. `inputs` finds and checks the files of a source, `readers` takes documents out of one
file, `documents` names, hashes and divides those of a whole source. `training` makes a tokenizer of them, `tokens` makes tokens: with a
`tokenizer`, into `pieces` that a restart finds again, which `shards` merges into their final order; `manifest` says what was made.
"""

from orchestrator.contract.tasks import PrepareTask, TokenizerTask
from orchestrator.errors import TaskRefused
from trainer.context import Context, Outcome
from trainer.prepare.sizes import Sizes
from trainer.prepare.tokens import prepare_tokens
from trainer.prepare.training import train_tokenizer

__all__ = ["Sizes", "run"]


def run(context: Context, sizes: Sizes | None = None) -> Outcome:
    """Do a prepare task. `sizes` bound memory and files; none of them changes a result. Raises TaskRefused, Stopped, StoreError."""
    sizes = sizes or Sizes()
    if isinstance(context.task, TokenizerTask):
        return train_tokenizer(context, context.task)
    if isinstance(context.task, PrepareTask):
        return prepare_tokens(context, context.task, sizes)
    raise TaskRefused(f"{context.digest} is a {type(context.task).__name__}; prepare does TokenizerTask and PrepareTask")
