"""``completion``: the script that lets a shell complete commands and options."""

from __future__ import annotations

import click

PROGRAM = "dispatcher"  # a shell completes the installed program, not `python -m dispatcher`


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  echo 'source <(dispatcher completion bash)' >> ~/.bashrc
    zsh:   echo 'source <(dispatcher completion zsh)' >> ~/.zshrc
    fish:  dispatcher completion fish > ~/.config/fish/completions/dispatcher.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
