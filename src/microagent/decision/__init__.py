"""May this happen? A question in, a verdict out; the same function for live flows, explanation, replay and tests.

In: a `Mode`, a `Policy`, and a `Question` (`engine`); what the guest was told by DNS (`leases`).
Out: a `Verdict` with its reason, the entry that decided and the one that would have permitted it (`verdict`);
what an operator asks about a target (`explain`) or about the past (`replay`, `suggest`).
Never: raises to deny, looks a name up, keeps time, writes a record.
Start at `engine.Engine.decide`.
"""
