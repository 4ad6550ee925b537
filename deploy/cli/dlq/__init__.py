"""malote dlq: look at dead letters, send them again, edit, purge, export."""

import typer

from deploy.cli.dlq import acting, editing, looking

app = typer.Typer(no_args_is_help=True)
app.command("list")(looking.list_)
app.command()(looking.show)
app.command()(acting.replay)
app.command()(acting.stop)
app.command()(editing.edit)
app.command()(acting.purge)
app.command()(looking.export)
app.command()(looking.actions)
