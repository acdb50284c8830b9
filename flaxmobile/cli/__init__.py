"""The `flaxmobile` command: one function a subcommand."""

from flaxmobile.cli.command import main

__all__ = ['main']
