"""The batched tree search: tensors in, tensors out.

`tree.py` is the record of dense arrays, `kernels.py` the scalar functions over one tree and their compiled batch
versions, `search.py` the loop around the model, `search_policies.py` what an algorithm calls to act or to make targets.
May import only `nest` and `ops`: a search knows no network and no environment. The model arrives as a function, and the
rule that chooses an action as a small record.
"""
