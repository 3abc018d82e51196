"""What the user wrote: from flags, files and the store, to a `Policy` that can be asked.

In: entries as text (`parse.parse_entry`, `parse.parse_file`), names and addresses (`model.Policy`).
Out: `Entry`, `Policy`, what an address is (`addresses.classify`), or PolicyError with every problem and its place.
Never: decides, looks a name up, reads a file, repairs what was written.
Start at `model`, then `addresses`; the other way in is `parse`.
"""
