"""`python -m elastify`: the command."""

from elastify.cli import app

app(prog_name="elastify")
