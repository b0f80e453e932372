"""Measuring a run and telling about it: episode metrics, phase timers, and writers (CSV, TensorBoard, console).

Everything that is written goes through `writers.Summaries`, which is best effort: a full disk or a value that cannot
be written is warned about once and never stops training. No file here knows an algorithm or a trainer: nothing is
imported but `nest`, `specs` and `data_structures`.
"""
