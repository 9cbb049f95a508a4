"""`condenser push DIR --repo_id OWNER/NAME [--dry_run]`: a saved model to the hub, and nothing else."""

import argparse
from pathlib import Path

from expert_condenser.cli.console import say_result
from expert_condenser.cli.parsing import Parser


def run(words: list[str]) -> None:
    """Show what goes where, and send it unless it is a dry run."""
    options = _read(words)
    from expert_condenser.card.upload import plan_upload, push  # takes seconds to import

    upload = plan_upload(options.model, options.repo_id)
    width = max(len(each.name) for each in upload.sent)
    for each in upload.sent:
        print(f"{each.name:{width}}  {each.size:>14,} bytes  sha256 {each.sha256}")
    total = sum(each.size for each in upload.sent)
    kind = "a public" if options.public else "a private"
    print(f"{len(upload.sent)} files, {total:,} bytes, to {upload.repo_id}, {kind} repository where it is a new one")
    if upload.left:
        print(f"not sent: {', '.join(upload.left)}")
    if options.dry_run:
        print("dry run: nothing was sent")
        return
    say_result(push(upload, public=options.public, overwrite=options.overwrite))


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser(
        "push", "A saved model to the hub: weights, tokenizer, card, checksums and provenance; nothing else."
    )
    parser.add_argument("model", type=Path, metavar="DIR", help="a saved model, such as RUN/model")
    parser.add_argument("--repo_id", required=True, metavar="OWNER/NAME", help="the repository on the hub")
    parser.add_argument("--dry_run", action="store_true", help="show what would be sent, and send nothing")
    parser.add_argument("--public", action="store_true", help="a new repository is public (private)")
    parser.add_argument("--overwrite", action="store_true", help="also a card on the hub that somebody wrote or edited")
    return parser.read(words)
