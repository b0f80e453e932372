"""The batched tree search: tensors in, tensors out.

`tree.py` is the record of dense arrays, `kernels.py` the scalar functions over one tree (`compiled.py` compiles them),
`records.py` what goes in and comes out, `search.py` the loop around the model, and `search_policies.py` what an
algorithm calls. May import only `nest`, `checks` and `ops`: a search knows no network and no environment. The model
arrives as a function, and the rule that chooses an action as a small record.
"""
