"""Pure: health checks: what to ask (`spec`), asking once (`probes`), judging (`state`), going on (`runner`)."""
