"""Prepare the inputs of training from files: train a tokenizer, or write shuffled tokens and a held-out set.

`attempt` calls `run` for both kinds of prepare task. `inputs` finds and checks the files of a source, `readers` reads the documents of one
file, `documents` hashes and splits the documents of a source. `training` trains a tokenizer on them. `tokens` tokenises them with a
`tokenizer` into `pieces`, which a restart reuses, and `shards` merges these into their final order. `manifest` describes the result.
"""

from orchestrator.contract.tasks import PrepareTask, TokenizerTask
from orchestrator.errors import TaskRefused
from trainer.context import Context, Outcome
from trainer.prepare.sizes import Sizes
from trainer.prepare.tokens import prepare_tokens
from trainer.prepare.training import train_tokenizer

__all__ = ["Sizes", "run"]


def run(context: Context, sizes: Sizes | None = None) -> Outcome:
    """Perform a prepare task. `sizes` bound memory and files and do not affect results. Raises TaskRefused, Stopped, StoreError."""
    sizes = sizes or Sizes()
    if isinstance(context.task, TokenizerTask):
        return train_tokenizer(context, context.task)
    if isinstance(context.task, PrepareTask):
        return prepare_tokens(context, context.task, sizes)
    raise TaskRefused(f"{context.digest} is a {type(context.task).__name__}; prepare supports TokenizerTask and PrepareTask")
