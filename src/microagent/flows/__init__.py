"""One conversation each: events in, effects out.

A flow's head decides; it never opens, reads or writes anything. `handle(event, now)` takes one frozen dataclass of
`vocabulary` and returns the effects to carry out, in order: a `Write` stands before the act that it records, and
when it cannot be carried out, neither may what follows. Bulk bytes do not pass here: after the decision the
mediator moves them by itself. Start reading at `vocabulary`, then `tcp`.
"""
