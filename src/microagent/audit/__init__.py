"""The record of every decision: one JSON object a line, each linked to the one before.

In: `Record` values from the flows. Out: bytes for egress.jsonl, and the readers and renderers of that file.
`record`, `chain` and `reader` are pure; `logfile` and `tail` open files; `render` makes lines for people. Start reading
at `record`.
"""
