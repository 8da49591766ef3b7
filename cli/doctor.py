"""I/O: `meshbridge doctor`: looks for what is wrong here, and says what to do."""

from __future__ import annotations

from functools import partial

import click

from cli.app import App, pass_app, run
from cli.output import print_json, text


@click.command(epilog="Example: meshbridge doctor || journalctl -u meshbridge")
@pass_app
def doctor(app: App) -> int:
    """Look for what is wrong here, and say what to do. Exit code 1 when anything fails."""
    from agents.operating.checkup import examine

    findings = run(partial(examine, app.home))
    if app.is_json:
        print_json(findings)
    else:
        for finding in findings:
            click.echo(f"{finding.state:4}  {text(finding.check)}: {text(finding.text)}")
            if finding.hint:
                click.echo(f"      hint: {text(finding.hint)}")
    return 1 if any(finding.state == "fail" for finding in findings) else 0
