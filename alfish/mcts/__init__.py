"""The batched tree search: tensors in, tensors out.

`tree.py` is the record of dense tensors. The scalar functions over one tree are in `selection.py` (how a simulation
finds its way), `expansion.py` (how it ends), `improved_policy.py`, `scaling.py`, `random_numbers.py` and `readout.py`
(what is found); `host.py` and `cuda_kernels.py` compile them. `settings.py` says how to choose, `search.py` is the loop
around the model, and `search_policies.py` what an algorithm calls. May import only `nest`, `checks` and `ops`: a search
knows no network and no environment. The model arrives as a function.
"""
